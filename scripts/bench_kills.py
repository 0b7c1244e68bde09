"""Runs that are killed at a random moment and gone on with, beside the same runs left alone.

python scripts/bench_kills.py FOLDER [--kills 20] [--terms 5] [--seed 0] [--out results/kills.json]

Five chains with tables given as files: a search without images, one with images, one with shared weights, one that cuts
given weights, and a training. Each is run to its end once. Then it is begun again and gets SIGKILL or SIGTERM at a
moment drawn evenly over the CPU time that it took whole, and `--resume` brings it to its end. It must leave the network
of the whole run, byte for byte, the weights of the whole run, and the same files. FOLDER keeps what failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from json_lines import short_commit
from safetensors.torch import load_file
from small_inputs import class_folder, computed_table, write_network, write_space_and_table

from mbv3.cli import main as mbv3_main
from mbv3.cli import search_main
from mbv3.files import write_atomic
from mbv3.latency import open_runtime
from mbv3.space import load_space, scale
from mbv3.spec import load_spec
from mbv3.tables import Latency, read_table

TICK = os.sysconf("SC_CLK_TCK")
POLL_S, MOST_S = 0.01, 900.0  # a run that takes longer hangs


@dataclass(frozen=True)
class Chain:
    """A command line without --out, by one of the two entry points, and the network file that it leaves."""

    name: str
    entry: Callable[[Sequence[str]], int]
    first: tuple[str, ...]
    again: tuple[str, ...]
    network: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal; the CPU seconds it used; what it said."""

    code: int
    cpu_s: float
    said: str


def chains(given: Path) -> list[Chain]:
    """The chains, on small inputs that are written to `given`."""
    space_file, table = write_space_and_table(given)
    imagenet = given / "imagenet.csv"
    computed_table(scale(load_space("mnasnet-imagenet"), 0.35, 64)).save(imagenet)
    spec, weights = write_network(given, load_space(space_file))
    images = class_folder(given / "images", 40)
    [full] = Latency(read_table(str(table), "onnxruntime", 1, False)[0])([load_spec(str(spec))])
    on_table = ("--device", str(table), "--data", str(images))
    searched = ("--space", str(space_file), *on_table, "--target-ms", "1.45")
    return [
        Chain("search", search_main, (), (), "mobilenetv3.yaml", (
            "--target-ms", "6", "--device", str(imagenet), "--space", "mnasnet-imagenet", "--trials", "40",
            "--sampler", "rnn", "--delta", "0.1", "--seed", "7")),
        Chain("images", search_main, (), (), "mobilenetv3.yaml", (*searched, "--final-epochs", "3")),
        Chain("supernet", search_main, (), (), "mobilenetv3.yaml", (
            *searched, "--accuracy", "supernet", "--supernet-steps", "9", "--trials", "20", "--finetune-steps", "1",
            "--final-epochs", "2", "--delta", "0.03")),
        Chain("init", search_main, (), (), "mobilenetv3.yaml", (
            *on_table, "--init", str(weights), "--from", str(spec), "--target-ms", f"{0.75 * full:.3f}",
            "--final-epochs", "2")),
        Chain("train", mbv3_main, ("train", str(spec)), ("train",), "network.yaml", (
            "--data", str(images), "--epochs", "8", "--batch", "8")),
    ]  # fmt: skip


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, its ended children's among them."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def loaded() -> None:
    """Every library that a run needs, so that its fork does not load it again."""
    import mbv3

    for module in pkgutil.walk_packages(mbv3.__path__, "mbv3."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "onnx", "onnxruntime", "optuna", "pandas",
                 "scipy.optimize", "sklearn.gaussian_process"):  # fmt: skip
        importlib.import_module(name)


def run(
    entry: Callable[[Sequence[str]], int], args: Sequence[str], log: Path, fate: tuple[int, float, Path] | None
) -> Ended:
    """`entry(args)` in a process of its own, a fork of this one, which has its libraries loaded. `fate`: a signal, the
    CPU seconds after which it is sent, and a file that has to be there first."""
    before = os.times()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = entry(args)
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    polls, sent = 0, False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if polls * POLL_S > MOST_S:
            os.kill(pid, signal.SIGKILL)
        elif fate is not None and not sent and cpu_s(pid) >= fate[1] and fate[2].exists():
            os.kill(pid, fate[0])
            sent = True
        time.sleep(POLL_S)
        polls += 1  # not the clock: a machine may stop both processes for a while
    now = os.times()
    used = now.children_user + now.children_system - before.children_user - before.children_system
    return Ended(os.waitstatus_to_exitcode(status), used, log.read_text("utf-8", "replace"))


def differences(chain: Chain, mine: Path, whole: Path) -> list[str]:
    """What a run left otherwise than the whole one."""
    found = []
    names = [sorted(p.name for p in d.iterdir() if p.name != ".lock") for d in (mine, whole)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(set(names[0]) ^ set(names[1]))}")
    if (mine / chain.network).read_bytes() != (whole / chain.network).read_bytes():
        found.append(chain.network)
    if (whole / "weights.safetensors").exists():
        a, b = (load_file(d / "weights.safetensors") for d in (mine, whole))
        if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
            found.append("weights.safetensors")
    for name in ("mobilenetv3.onnx", "trials.csv", "seed.yaml", "netadapt.csv", "candidates.csv"):
        if (whole / name).exists() and (mine / name).read_bytes() != (whole / name).read_bytes():
            found.append(name)
    return found


def killed(
    chain: Chain, whole: Path, took_s: float, number: int, folder: Path, rng: np.random.Generator
) -> dict[str, Any]:
    """One interrupted run, gone on with until it ends."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        out, log, at_s = folder / "run", folder / "log.txt", float(rng.uniform(0, took_s))
        fresh = (*chain.first, *chain.args, "--out", str(out))
        first = run(chain.entry, fresh, log, (number, at_s, out / "run.json"))  # before that there is nothing to resume
        if first.code != 0:  # it ended before its moment came: another one
            break
    row: dict[str, Any] = {"chain": chain.name, "signal": signal.Signals(number).name, "cpu_s": round(at_s, 2),
                           "code": first.code, "stages": stages(out)}  # fmt: skip
    faults = []
    if number == signal.SIGTERM and first.code != 4:
        faults.append(f"SIGTERM ended with {first.code}, not 4")
    if number == signal.SIGTERM and "--resume" not in first.said:
        faults.append("no hint how to go on")
    if "Traceback" in first.said:
        faults.append("a traceback")
    again = run(chain.entry, (*chain.again, "--resume", str(out)), folder / "log-resumed.txt", None)
    if again.code != 0:
        faults.append(f"resumed it ended with {again.code}: {again.said.strip().splitlines()[-1:]}")
    if not faults:
        faults += differences(chain, out, whole)
    row["faults"] = faults
    if not faults:
        shutil.rmtree(folder)
    return row


def stages(out: Path) -> list[str]:
    """The stages that had ended when a run was interrupted."""
    try:
        return list(json.loads((out / "run.json").read_text("utf-8"))["stages"])
    except (OSError, ValueError, KeyError):
        return []


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--terms", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", nargs="+")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    commit = short_commit()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MBV3_CACHE"], os.environ["OMP_NUM_THREADS"] = str(folder / "cache"), "1"
    loaded()
    torch.set_num_threads(1)  # sums have one order
    shutil.rmtree(folder / "given", ignore_errors=True)
    todo = [c for c in chains(folder / "given") if not args.only or c.name in args.only]
    rng = np.random.default_rng(args.seed)
    signals = [signal.SIGKILL] * args.kills + [signal.SIGTERM] * args.terms
    rows: list[dict[str, Any]] = []
    took: dict[str, float] = {}
    for chain in todo:
        shutil.rmtree(whole := folder / f"whole-{chain.name}", ignore_errors=True)
        done = run(chain.entry, (*chain.first, *chain.args, "--out", str(whole)), folder / f"{chain.name}.txt", None)
        if done.code != 0:
            raise SystemExit(f"{chain.name} ended with {done.code}:\n{done.said}")
        took[chain.name] = round(done.cpu_s, 2)
        print(json.dumps({"whole": chain.name, "cpu_s": took[chain.name]}), flush=True)
    for i, number in enumerate(signals):  # SIGKILL and SIGTERM go round the chains
        chain = todo[i % len(todo)]
        whole, place = folder / f"whole-{chain.name}", folder / f"{i}-{chain.name}"
        rows.append(killed(chain, whole, took[chain.name], number, place, rng))
        print(json.dumps(rows[-1]), flush=True)
    good = sum(not r["faults"] for r in rows)
    print(f"{good} of {len(rows)} ended as the whole run")
    if args.out:
        about = {"command": f"python scripts/bench_kills.py FOLDER --kills {args.kills} --terms {args.terms}",
                 "commit": commit, "seed": args.seed, "n": len(rows), "same": good,
                 "cpu": open_runtime("onnxruntime", 1).fingerprint.cpu, "torch": torch.__version__,
                 "whole_cpu_s": took, "rows": rows}  # fmt: skip
        write_atomic(args.out, json.dumps(about, indent=1) + "\n")
    raise SystemExit(0 if good == len(rows) else 1)


if __name__ == "__main__":
    main()
