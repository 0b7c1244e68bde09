"""Several workers on one study: trials a second where a score costs nothing, and what is left when workers are killed.

python scripts/bench_workers.py [--parts rate,kills] [--seeds 5] [--out results/workers.json]

rate: trials a second of `--workers` processes on a PostgreSQL of one's own on loopback, on SQLite, on a journal and
through Optuna's gRPC proxy, over the 30 choices of space mobilenetv3, with a score that costs nothing; beside them
Optuna alone (study.optimize, random sampler) on the same storage. CPU times are those of all workers, and of the
server; cpu_share is what they had of a core while they ran, load the machine's.

kills: NAS-Bench-Macro (6,561 networks, all with their true accuracy), where a score is looked up and takes 0.1 to 0.3 s
of waiting. Four workers on PostgreSQL, two of which get SIGKILL after a quarter and a half of the trials; beside them
one worker in memory. What must be: every trial has a score, no network has two, and what the workers held when they
were killed was scored by others. How good a front is: the mean, over three limits on the time, of the accuracy that
the best possible network within the limit is above the best one found.

Results that are there already are kept; the script goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import optuna
from json_lines import short_commit
from optuna.trial import TrialState
from own_postgres import postgres

from mbv3.files import write_atomic
from mbv3.search import Search, SharedSearch, Trial, make_reward
from mbv3.search import open_storage as opened
from mbv3.space import Genome, Limits, SearchSpace, load_space

ROOT = Path(__file__).resolve().parents[1]
MACRO = ROOT.parent / "shared" / "data" / "nas_bench_macro_cifar10.csv"
TICK = os.sysconf("SC_CLK_TCK")
RATES = {  # name: (storage, sampler, workers, trials)
    "optuna, postgresql, 4 workers": ("postgresql", "optuna", 4, 60),
    "optuna, sqlite, 1 worker": ("sqlite", "optuna", 1, 60),
    "postgresql, random, 4 workers": ("postgresql", "random", 4, 1000),
    "postgresql, evolution, 4 workers": ("postgresql", "evolution", 4, 1000),
    "postgresql, rnn, 4 workers": ("postgresql", "rnn", 4, 400),
    "postgresql, evolution, 1 worker": ("postgresql", "evolution", 1, 500),
    "sqlite, evolution, 1 worker": ("sqlite", "evolution", 1, 300),
    "journal, evolution, 4 workers": ("journal", "evolution", 4, 500),
    "grpc before postgresql, evolution, 4 workers": ("grpc", "evolution", 4, 100),
}
KILLED = ("evolution", "rnn", "surrogate")
TRIALS = {"evolution": 200, "rnn": 200, "surrogate": 80}
BEAT_S, GRACE_S = 1.0, 5.0  # of the workers that are killed, as their scores take tenths of a second


# ---- a worker ----------------------------------------------------------------------------------------------------


def macro() -> tuple[SearchSpace, dict[Genome, float], Callable[[Genome], float]]:
    """NAS-Bench-Macro: its space, its accuracies in percent, and multiply-adds as a time (1 ms for 10 M)."""
    space = load_space("nas-bench-macro")
    [madds] = Limits(madds=10**12).on(space).every
    every = np.array(list(itertools.product(*map(range, space.sizes))))
    ms = dict(zip(map(tuple, every.tolist()), (madds.cost(every) / 1e7).tolist(), strict=True))
    with MACRO.open(encoding="utf-8") as f:
        truth = {tuple(int(c) for c in r["arch"]): float(r["mean_acc"]) for r in csv.DictReader(f)}
    return space, truth, ms.__getitem__


def searched(about: dict[str, Any]) -> SharedSearch:
    """The search of a worker."""
    common = {"sampler": about["sampler"], "trials": about["trials"], "seed": about["seed"], "place": about["place"],
              "storage": about["storage"], "name": about["name"]}  # fmt: skip
    if about["score"] == "free":
        space = load_space("mobilenetv3")
        return SharedSearch(
            space, lambda g: 60.0 + sum((i % 3) * v for i, v in enumerate(g)) / 3, lambda g: 5.0 + 0.5 * sum(g),
            make_reward("mnasnet-soft", 20.0, -0.07), target_ms=20.0, **common,
        )  # fmt: skip
    space, truth, ms = macro()
    rng = np.random.default_rng(about["place"])

    def accuracy(genome: Genome) -> float:
        time.sleep(rng.uniform(0.1, 0.3))
        return truth[genome]

    return SharedSearch(
        space, accuracy, ms, make_reward("mnasnet-soft", about["target"], -0.07), target_ms=about["target"],
        beat_s=BEAT_S, grace_s=GRACE_S, worker=f"worker-{about['place']}", **common,
    )  # fmt: skip


def work(about: dict[str, Any]) -> None:
    """A process of its own: says that it is ready, waits for a line, works, says the CPU seconds it took."""
    if about["sampler"] == "optuna":
        genes = load_space("mobilenetv3").genes
        choices = {g.name: optuna.distributions.CategoricalDistribution(range(len(g.values))) for g in genes}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            study_name=about["name"], storage=about["optuna"], directions=["maximize", "minimize"],
            load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=about["place"]),
        )  # fmt: skip

        def run() -> None:
            for _ in range(about["trials"] // about["workers"]):
                trial = study.ask(choices)
                study.tell(trial, [1.0, sum(trial.params.values())])
    else:
        search = searched(about)

        def run() -> None:
            for _ in search.run():
                pass

    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    run()
    print(json.dumps({"cpu_s": time.process_time() - before}), flush=True)


def started(about: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--work", json.dumps(about)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(workers: list[subprocess.Popen[str]]) -> None:
    """Let all begin at once."""
    for w in workers:
        assert w.stdout is not None
        assert w.stdout.readline().strip() == "ready"
    for w in workers:
        assert w.stdin is not None
        w.stdin.write("\n")
        w.stdin.flush()


# ---- rate --------------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, its ended children's among them."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


@contextmanager
def storage(kind: str) -> Iterator[tuple[str, str, int | None]]:
    """(what --storage takes, what Optuna takes, id of the server's first process)."""
    with ExitStack() as stack:
        if kind in ("postgresql", "grpc"):
            server = stack.enter_context(postgres())
            driver = server.url.replace("postgresql://", "postgresql+psycopg://")
            if kind == "postgresql":
                yield server.url, driver, server.pid
                return
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            code = (
                "import optuna; from optuna.storages import *; "
                f"run_grpc_proxy_server(RDBStorage({driver!r}), host='127.0.0.1', port={port})"
            )
            proxy = subprocess.Popen([sys.executable, "-c", code])
            stack.callback(proxy.wait)
            stack.callback(proxy.kill)
            yield f"grpc://127.0.0.1:{port}", "", server.pid
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'study.db'}" if kind == "sqlite" else str(folder / "study.log")
        yield url, url, None


def rate(kind: str, sampler: str, workers: int, trials: int) -> dict[str, Any]:
    with storage(kind) as (url, driver, server):
        about = {"storage": url, "optuna": driver, "name": "rate", "sampler": sampler, "trials": trials, "seed": 0,
                 "score": "free", "workers": workers}  # fmt: skip
        if sampler == "optuna":
            study = optuna.create_study(storage=driver, study_name="rate", directions=["maximize", "minimize"])
        each = [started({**about, "place": i}) for i in range(workers)]
        go(each)
        began, server_before = time.monotonic(), 0.0 if server is None else cpu_s(server)
        said = [json.loads(w.communicate()[0]) for w in each]
        took = time.monotonic() - began
        server_s = None if server is None else cpu_s(server) - server_before
        if sampler != "optuna":
            study = optuna.load_study(study_name="rate", storage=opened(url))
        every = study.get_trials(deepcopy=False)
        ended = sum(t.state == TrialState.COMPLETE for t in every)
        assert ended >= trials // workers * workers, (ended, trials)
        return {
            "trials": ended, "workers": workers, "seconds": round(took, 2), "trials_per_s": round(ended / took, 1),
            "taken_by_two": len(every) - ended,
            "worker_cpu_ms": round(1e3 * sum(s["cpu_s"] for s in said) / ended, 2),
            "server_cpu_ms": None if server_s is None else round(1e3 * server_s / ended, 2),
            "cpu_share": round((sum(s["cpu_s"] for s in said) + (server_s or 0.0)) / took, 2),
            "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip


# ---- kills -------------------------------------------------------------------------------------------------------


def regret(trials: list[tuple[float, float]], truth: dict[Genome, float], ms: Callable[[Genome], float]) -> float:
    """Points of accuracy below the best possible within a quarter, a half and three quarters of all networks by time,
    on average. `trials`: (accuracy, ms)."""
    every = [(truth[g], ms(g)) for g in truth]
    below = []
    for q in (0.25, 0.5, 0.75):
        most = float(np.quantile([t for _, t in every], q))
        found = [a for a, t in trials if t <= most]
        below.append(max(a for a, t in every if t <= most) - max(found, default=0.0))
    return float(np.mean(below))


def killed(sampler: str, seed: int) -> dict[str, Any]:
    """Four workers of which two are killed, beside one in memory."""
    space, truth, ms = macro()
    target = float(np.median([ms(g) for g in truth]))
    n = TRIALS[sampler]
    reward = make_reward("mnasnet-soft", target, -0.07)
    alone: list[Trial] = list(
        Search(space, truth.__getitem__, ms, reward, sampler=sampler, seed=seed, target_ms=target, trials=n).run(n)
    )
    with postgres() as server:
        about = {"storage": server.url, "name": "kills", "sampler": sampler, "trials": n, "seed": seed,
                 "score": "macro", "target": target}  # fmt: skip
        each = [started({**about, "place": i}) for i in range(4)]
        go(each)
        began = time.monotonic()
        study = optuna.load_study(study_name="kills", storage=opened(server.url))
        held: list[str] = []
        for victim, share in ((1, 0.25), (2, 0.5)):
            while sum(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)) < share * n:
                time.sleep(0.1)
            each[victim].send_signal(signal.SIGKILL)
            each[victim].wait()
            held += [
                t.user_attrs["genome"] for t in study.get_trials(deepcopy=False)
                if t.state == TrialState.RUNNING and t.user_attrs["worker"] == f"worker-{victim}"
            ]  # fmt: skip
        for i in (0, 3):
            each[i].communicate()
        took = time.monotonic() - began
        every = study.get_trials(deepcopy=False)
        done = [t for t in every if t.state == TrialState.COMPLETE]
        genomes = [t.user_attrs["genome"] for t in done]
        by = {w: sum(t.user_attrs["worker"] == f"worker-{w}" for t in done) for w in range(4)}
        return {
            "sampler": sampler, "seed": seed, "trials": n, "scored": len(done), "twice": len(done) - len(set(genomes)),
            "held_by_killed": len(held), "lost": n - len(done) + len(set(held) - set(genomes)),
            "running": sum(t.state == TrialState.RUNNING for t in every), "scored_by": by, "seconds": round(took, 1),
            "regret": round(regret([(t.values[0], t.values[1]) for t in done], truth, ms), 4),
            "regret_one_worker": round(regret([(t.accuracy, t.latency_ms) for t in alone], truth, ms), 4),
        }  # fmt: skip


# ---- all ---------------------------------------------------------------------------------------------------------


def device() -> str:
    """The processor and how many cores there are."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    about = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in reversed(lines))}
    family = f"family {about.get('cpu family')}, model {about.get('model')}"
    return f"{about.get('model name', platform.processor())} ({family}), {os.cpu_count()} cores"


def summary(kills: list[dict[str, Any]]) -> dict[str, Any]:
    """Regret of four workers with two killed, of one, and their paired difference, with standard errors."""
    found = {}
    for sampler in KILLED:
        rows = [k for k in kills if k["sampler"] == sampler]
        if len(rows) < 2:
            continue
        four, one = (np.array([r[key] for r in rows]) for key in ("regret", "regret_one_worker"))

        def mean(x: Any) -> list[float]:
            return [round(float(x.mean()), 4), round(float(x.std(ddof=1) / len(x) ** 0.5), 4)]

        found[sampler] = {"n": len(rows), "four": mean(four), "one": mean(one), "difference": mean(four - one),
                          "lost": sum(r["lost"] for r in rows), "twice": sum(r["twice"] for r in rows)}  # fmt: skip
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts", default="rate,kills")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--out", type=Path, default=ROOT / "results" / "workers.json")
    p.add_argument("--work", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.work:
        return work(json.loads(args.work))
    kept: dict[str, Any] = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
    commit = short_commit()
    kept |= {"device": device(), "python": platform.python_version(), "optuna": optuna.__version__}
    kept.setdefault("rate", {})
    kept.setdefault("kills", [])

    def keep() -> None:
        kept["summary"] = summary(kept["kills"])
        write_atomic(args.out, json.dumps(kept, indent=1) + "\n")

    if "rate" in args.parts:
        for name, how in RATES.items():
            if name not in kept["rate"]:
                kept["rate"][name] = {**rate(*how), "commit": commit}
                print(name, kept["rate"][name], flush=True)
                keep()
    if "kills" in args.parts:
        for seed, sampler in itertools.product(range(args.seeds), KILLED):
            if not any(k["sampler"] == sampler and k["seed"] == seed for k in kept["kills"]):
                kept["kills"].append({**killed(sampler, seed), "commit": commit})
                print(kept["kills"][-1], flush=True)
                keep()
    print(json.dumps(kept.get("summary", {}), indent=1))


if __name__ == "__main__":
    main()
