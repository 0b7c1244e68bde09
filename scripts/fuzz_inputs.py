"""Feed the readers of the commands with inputs that are wrong, and count how they end.

python scripts/fuzz_inputs.py KEPT [--n 10000] [--seed 0] [--out results/fuzz.json]

Specs, spaces, tables, annotations, images, masks and checkpoints: a third of them drawn by hypothesis from valid
documents, two thirds bytes of valid files flipped, cut and spliced; beside them definite faults, each planted with the
reason why a correct tool must refuse or warn, and valid inputs, which must be accepted. All go to the readers that the
commands use, in a process of their own, which is killed where an input takes longer than 10 s of CPU time, or than a
minute. Asked: no traceback, no hang, no planted fault that is accepted in silence or told as another.
KEPT is a new folder: every input that failed, with what was said of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from fuzz.base import valid
from fuzz.cases import KINDS, Case, written
from fuzz.mutate import bent, structured
from fuzz.planted import planted
from fuzz.readers import Answer, at_once, read
from hypothesis import HealthCheck, Phase, given, seed, settings
from json_lines import short_commit

from mbv3.files import write_atomic
from mbv3.latency import open_runtime

__all__ = ["inputs", "judged"]

MOST_CPU_S, MOST_S, WAIT_S = 10.0, 60.0, 0.5
MOST_BYTES = 8 << 30  # of a worker's memory: an input that asks for more fails in it, not in the machine
DRAWN = 1 / 3  # of the inputs, by hypothesis
PLANTED_EACH = 2
TICK = os.sysconf("SC_CLK_TCK")


def drawn(kind: str, n: int, number: int) -> list[Case]:
    """`n` inputs of a kind by hypothesis."""
    found: list[Case] = []

    @seed(number)
    @settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(structured(kind))
    def take(case: Case) -> None:
        found.append(case)

    take()
    return found[:n]


def inputs(n: int, number: int) -> Iterator[Case]:
    """`n` inputs over all kinds, wrong somehow or not at all."""
    for i, kind in enumerate(KINDS):
        mine = n // len(KINDS) + (i < n % len(KINDS))
        by_hypothesis = drawn(kind, round(DRAWN * mine), number)
        yield from by_hypothesis
        rng = random.Random(f"{number} {kind}")
        for _ in range(mine - len(by_hypothesis)):
            yield bent(kind, rng)


def judged(case: Case, answer: Answer, *, control: bool = False) -> str:
    """What is wrong with an answer: "" where nothing is."""
    if answer.outcome in ("traceback", "hang", "died"):
        return answer.outcome
    if control and answer.outcome != "accepted":
        return "refused though valid"
    if case.fault and answer.outcome == "accepted":
        return "silent"
    if case.fault and case.says and not re.search(re.escape(case.says), answer.said):
        return "told as another"
    return ""


# ---- a process that reads ------------------------------------------------------------------------------------


class Worker:
    """A fork of this process that reads one input after the other; after a hang or a crash there is a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slowest_s = 0.0
        self._start()

    def _start(self) -> None:
        down, self.ask = os.pipe()
        self.answer, up = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.ask)
            os.close(self.answer)
            with os.fdopen(down) as asked, os.fdopen(up, "w") as answers:
                _serve(asked, answers)
            os._exit(0)
        os.close(down)
        os.close(up)

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICK

    def read(self, case: Case) -> Answer:
        """What the readers make of a case."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            written(case, place)
            cpu_s, waits = self._cpu_s(), 0
            os.write(self.ask, (json.dumps([case.kind, str(place)]) + "\n").encode())
            said = b""
            while not said.endswith(b"\n"):
                if select.select([self.answer], [], [], WAIT_S)[0]:
                    part = os.read(self.answer, 1 << 16)
                    if not part:
                        _, status = os.waitpid(self.pid, 0)
                        return self._again(Answer("died", f"the process ended with {status}"))
                    said += part
                    continue
                waits += 1  # not the clock: a machine that stops this process stops both
                if self._cpu_s() - cpu_s > MOST_CPU_S or waits * WAIT_S > MOST_S:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    return self._again(Answer("hang", f"over {MOST_CPU_S:g} s of CPU time, or over {MOST_S:g} s"))
            self.slowest_s = max(self.slowest_s, self._cpu_s() - cpu_s)
            return Answer(**json.loads(said))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _again(self, answer: Answer) -> Answer:
        self.end()
        self._start()
        return answer

    def end(self) -> None:
        os.close(self.ask)
        os.close(self.answer)


def _serve(asked: Any, answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    at_once()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries of C print
        os.dup2(nothing, stream)
    for line in asked:
        kind, folder = json.loads(line)
        answers.write(json.dumps(asdict(read(kind, Path(folder)))) + "\n")
        answers.flush()


# ---- all of them ---------------------------------------------------------------------------------------------


def fuzz(n: int, number: int, kept: Path) -> dict[str, Any]:
    """Counts over `n` inputs, the planted faults and the valid ones; failing inputs go to `kept`."""
    outcomes = {kind: Counter[str]() for kind in KINDS}
    wrong = {kind: Counter[str]() for kind in KINDS}
    plants = {kind: Counter[str]() for kind in KINDS}
    failing: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder))

        def take(case: Case, what: str) -> None:
            answer = worker.read(case)
            if what == "input":
                outcomes[case.kind][answer.outcome] += 1
            else:
                plants[case.kind][f"{what} {answer.outcome}"] += 1
            if found := judged(case, answer, control=what == "valid"):
                wrong[case.kind][found] += 1
                where = kept / f"{len(failing)}-{case.kind}"
                written(case, where)
                (where / "said.txt").write_text(f"{found}\n{case.fault}\n{answer.said}\n", "utf-8", "backslashreplace")
                last = answer.said.strip().splitlines()[-1:]
                failing.append({"kind": case.kind, "wrong": found, "fault": case.fault, "said": last})
                print(json.dumps(failing[-1]), flush=True)

        for kind in KINDS:
            for case in valid(kind):
                take(case, "valid")
        for case in planted(PLANTED_EACH, number):
            take(case, "planted")
        for i, case in enumerate(inputs(n, number)):
            take(case, "input")
            if i % 1000 == 999:
                print(f"{i + 1} inputs, {len(failing)} failing", file=sys.stderr, flush=True)
        worker.end()
    count = Counter(f["wrong"] for f in failing)
    return {
        "inputs": sum(sum(c.values()) for c in outcomes.values()),
        "planted": sum(v for c in plants.values() for k, v in c.items() if k.startswith("planted")),
        "tracebacks": count["traceback"] + count["died"], "hangs": count["hang"], "silent": count["silent"],
        "told_as_another": count["told as another"], "refused_though_valid": count["refused though valid"],
        "slowest_cpu_s": round(worker.slowest_s, 2),
        "by_kind": {k: {"inputs": dict(outcomes[k]), "others": dict(plants[k]), "wrong": dict(wrong[k])}
                    for k in KINDS},
        "failing": failing,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("kept", type=Path, help="a new folder for the inputs that fail")
    p.add_argument("--n", type=int, default=10_000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    args.kept.mkdir(parents=True)
    commit = short_commit()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MBV3_CACHE"] = cache
        found = fuzz(args.n, args.seed, args.kept)
    about = {"command": f"python scripts/fuzz_inputs.py KEPT --n {args.n} --seed {args.seed}", "seed": args.seed,
             "commit": commit, "cpu": open_runtime("onnxruntime", 1).fingerprint.cpu,
             "python": platform.python_version(), "torch": torch.__version__, **found}  # fmt: skip
    print(json.dumps({k: v for k, v in about.items() if k not in ("by_kind", "failing")}))
    if args.out:
        write_atomic(args.out, json.dumps(about, indent=1) + "\n")
    raise SystemExit(1 if found["failing"] else 0)


if __name__ == "__main__":
    main()
