"""Our samplers against those of Optuna, pymoo and Syne Tune, at as many evaluations, under a hard limit of latency.

    python scripts/bench_samplers.py --data DIR [--parts macro,space,speed,costly] [--seeds 50] [--minutes 20]

`macro`: evaluations until a network within 0.1 point of the best, on NAS-Bench-Macro and Channel-Bench-Macro (true
accuracies; DIR holds the two CSV files), limit at the median latency. `costly`: the same for peers that take seconds a
trial. `space`: regret in points of predicted top-1 to the best known network of the mnasnet-imagenet space. `speed`:
trials a second with a score that is free. Times of layers are those of the shipped profile pixel-1: nothing is
measured. Peers that cannot be imported are named and left out. After --minutes the rest is left to the next call, which
goes on. Writes results/samplers.json.

A peer's trial beyond the limit counts as none of its evaluations, nor does a network that it proposes again: both are
known without an evaluation. Optuna and pymoo get the limit as a constraint, Syne Tune as a reward below every accuracy.
Optuna's GP learns from the accuracy of networks beyond the limit, so these count among its evaluations. A network of
ours that is proposed again or beyond the limit ends the bench.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import itertools
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import short_commit
from numpy.typing import NDArray

from mbv3.accuracy import imagenet_space
from mbv3.latency import load_profile
from mbv3.search import LIMIT, SAMPLERS, Limit, Search, make_reward, solve
from mbv3.space import Genome, SearchSpace, load_space, parse_space
from mbv3.spec import ArchSpec, Classify, Conv, LayerKey, MBConv, lower
from mbv3.stages import space_latency
from mbv3.tables import Latency

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "results/samplers.json"
PROFILE, SPACE, TARGETS = "pixel-1", "mnasnet-imagenet", (50.0, 35.0, 70.0)
WITHIN = 0.1  # points of the best
MOST = 300  # evaluations of a macro run
Many = Callable[[NDArray[np.int64]], NDArray[np.float64]]
Ask = Generator[Genome, tuple[float, float], None]  # proposes, receives (accuracy, ms)


@dataclass(frozen=True)
class Problem:
    """A search under a limit. `best`: the best accuracy within it, as far as is known."""

    name: str
    space: SearchSpace
    accuracies: Many
    latencies: Many
    limit_ms: float
    best: float

    def one(self, genome: Genome) -> tuple[float, float]:
        genomes = np.array([genome], dtype=np.int64)
        return float(self.accuracies(genomes)[0]), float(self.latencies(genomes)[0])


class _Latency:
    def __init__(self, many: Many) -> None:
        self.many = many

    def __call__(self, genome: Genome) -> float:
        return float(self.many(np.array([genome]))[0])


# ---- problems


def _enumerated(name: str, space: SearchSpace, value: dict[Genome, float], ms: dict[Genome, float]) -> Problem:
    every = list(itertools.product(*map(range, space.sizes)))
    values, times = np.array([value[g] for g in every]), np.array([ms[g] for g in every])
    limit = float(np.median(times))

    def at(of: NDArray[np.float64]) -> Many:
        return lambda genomes: of[np.ravel_multi_index(tuple(np.asarray(genomes).T), space.sizes)]

    return Problem(name, space, at(values), at(times), limit, float(values[times <= limit].max()))


def nas_bench_macro(data: Path) -> Problem:
    space = load_space("nas-bench-macro")
    cost = space_latency(space, Latency(load_profile(PROFILE)))
    with (data / "nas_bench_macro_cifar10.csv").open(encoding="utf-8") as f:
        value = {tuple(int(c) for c in r["arch"]): float(r["mean_acc"]) for r in csv.DictReader(f)}
    return _enumerated("nas-bench-macro", space, value, {g: cost(g) for g in value})


def _widths(quarters: Genome) -> ArchSpec:
    """A network of Channel-Bench-Macro; its parameters and multiply-adds are the published ones."""
    a, b, tail = (full * quarters[i] // 4 for i, full in ((0, 128), (4, 256), (6, 1024)))
    e = [full * quarters[i] // 4 for i, full in ((1, 768), (2, 768), (3, 768), (5, 1536))]
    shapes = ((e[0], a, 1), (e[1], a, 1), (e[2], b, 2), (e[3], b, 1))
    return ArchSpec(
        name="widths", resolution=(32, 32), stem=Conv(k=3, out=a, nl="RE", s=2),
        rows=tuple(MBConv(k=3, exp=exp, out=out, se=0, nl="RE", s=s) for exp, out, s in shapes),  # type: ignore[arg-type]
        tail=Conv(k=1, out=tail, nl="RE"), head=Classify(features=0, nl="RE", dropout=0.0, classes=10),
    )  # fmt: skip


def channel_bench_macro(data: Path) -> Problem:
    blocks = "\n".join(f"  - {{name: w{i}, s: 1, out: 8, e: [1, 2, 3, 4], k: 3}}" for i in range(7))
    space = parse_space(
        "format: mbv3-space/1\nname: channel-bench-macro\ninput: {resolution: 32}\nstem: {k: 3, out: 8, nl: RE, s: 2}\n"
        f"blocks:\n{blocks}\nhead: {{features: 0, classes: 10}}\n"
    )  # seven genes of four choices; the networks are those of _widths
    table = load_profile(PROFILE)
    known: dict[LayerKey, float] = {}

    def ms(key: LayerKey) -> float:
        if key not in known:
            known[key] = table.calibration.layer_ms(key, table.hot_ms(key, estimate=True))
        return known[key]

    value, times = {}, {}
    with (data / "channel_bench_macro_mobilenet.csv").open(encoding="utf-8") as f:
        for row in csv.DictReader(f):
            quarters = tuple(int(c) for c in row["widths"])
            genome = tuple(q - 1 for q in quarters)
            value[genome] = float(row["mean"])
            times[genome] = sum(ms(layer.key) for layer in lower(_widths(quarters))) + table.calibration.c
    return _enumerated("channel-bench-macro", space, value, times)


def under_limit(target_ms: float) -> Problem:
    """The ImageNet model on a space of 1e11 networks. The best known: 40 starts of two-gene local search, and solve."""
    space = load_space(SPACE)
    cost, top1 = space_latency(space, Latency(load_profile(PROFILE))), imagenet_space(space)
    limits = [Limit(cost.many, target_ms)]
    found = [solve(space.sizes, top1, limits, seed=1000, population=2, generations=0, starts=40)]
    found += [solve(space.sizes, top1, limits, seed=seed) for seed in range(3)]
    return Problem(f"{target_ms:g} ms", space, top1, cost.many, target_ms, max(f.value for f in found))


# ---- ours and peers: each proposes genomes and receives (accuracy, ms)


def ours(sampler: str) -> Callable[[Problem, int, int], Ask]:
    def run(p: Problem, seed: int, trials: int) -> Ask:
        search = Search(
            p.space, lambda g: p.one(g)[0], _Latency(p.latencies), make_reward(LIMIT, p.limit_ms, 0.0),
            sampler=sampler, seed=seed, target_ms=p.limit_ms, hard=True, trials=trials,
        )  # fmt: skip
        for trial in search.run(trials):
            yield trial.genome

    return run


def optuna_peer(make: Callable[[int, int, Any], Any]) -> Callable[[Problem, int, int], Ask]:
    def run(p: Problem, seed: int, trials: int) -> Ask:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=make(seed, trials, lambda t: t.user_attrs["over"]))
        names = {
            f"g{i}": optuna.distributions.CategoricalDistribution(tuple(range(n))) for i, n in enumerate(p.space.sizes)
        }
        while True:
            trial = study.ask(names)
            accuracy, ms = yield tuple(int(trial.params[name]) for name in names)
            trial.set_user_attr("over", (ms / p.limit_ms - 1,))
            study.tell(trial, accuracy)

    return run


def _tpe(seed: int, trials: int, over: Any) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constraints_func=over)


def _gp(seed: int, trials: int, over: Any) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, constraints_func=over, deterministic_objective=True)


def _nsga2(seed: int, trials: int, over: Any) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=20 if trials <= MOST else 50, constraints_func=over)


def pymoo(p: Problem, seed: int, trials: int) -> Ask:
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.mixed import MixedVariableGA
    from pymoo.core.problem import Problem as Pymoo
    from pymoo.core.variable import Choice
    from pymoo.problems.static import StaticProblem

    names = [f"g{i}" for i in range(len(p.space.sizes))]
    variables = {name: Choice(options=list(range(n))) for name, n in zip(names, p.space.sizes, strict=True)}
    problem = Pymoo(vars=variables, n_obj=1, n_ieq_constr=1)
    algorithm = MixedVariableGA(pop_size=20 if trials <= MOST else 50)
    algorithm.setup(problem, seed=seed, termination=("n_gen", 10**6), verbose=False)
    while True:
        population = algorithm.ask()
        if population is None or not len(population):
            return
        values, over = [], []
        for one in population:
            accuracy, ms = yield tuple(int(one.X[name]) for name in names)
            values.append([-accuracy])
            over.append([ms / p.limit_ms - 1])
        Evaluator().eval(StaticProblem(problem, F=np.array(values), G=np.array(over)), population)
        algorithm.tell(infills=population)


def syne_tune(kind: str) -> Callable[[Problem, int, int], Ask]:
    def run(p: Problem, seed: int, trials: int) -> Ask:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice
        from syne_tune.optimizer import baselines

        names = {f"g{i}": choice(list(range(n))) for i, n in enumerate(p.space.sizes)}
        scheduler = getattr(baselines, kind)(names, metric="value", do_minimize=False, random_seed=seed)
        for number in itertools.count():
            suggestion = scheduler.suggest()
            if suggestion is None:
                return
            trial = Trial(number, suggestion.config, datetime.datetime(2026, 1, 1))
            scheduler.on_trial_add(trial)
            accuracy, ms = yield tuple(int(suggestion.config[name]) for name in names)
            value = accuracy / 100 if ms <= p.limit_ms else 1 - ms / p.limit_ms
            scheduler.on_trial_complete(trial, {"value": value})

    return run


OURS = ("surrogate", "evolution", "rnn", "random")
COSTLY = ("syne-tune bore", "optuna gp")
LEARNS_BEYOND = ("optuna gp",)  # the others look at how far beyond the limit a network is, and not at its accuracy
# name: (package, run, seeds at most, evaluations at most): GP is cut for its own cost, a fifth of a second a trial
PEERS: dict[str, tuple[str, Callable[[Problem, int, int], Ask], int, int]] = {
    "optuna tpe": ("optuna", optuna_peer(_tpe), 50, 10**6),
    "optuna nsga2": ("optuna", optuna_peer(_nsga2), 50, 10**6),
    "pymoo ga": ("pymoo", pymoo, 50, 10**6),
    "syne-tune rea": ("syne_tune", syne_tune("REA"), 50, 10**6),
    "syne-tune cqr": ("syne_tune", syne_tune("CQR"), 10, MOST),
    "syne-tune bore": ("syne_tune", syne_tune("BORE"), 50, MOST),
    "optuna gp": ("optuna", optuna_peer(_gp), 50, 120),
}


@dataclass
class Run:
    """`reached`: evaluations, and trials of any kind, at the first network within WITHIN of the best."""

    best: list[float]  # the best accuracy within the limit after each evaluation
    trials: int
    reached: tuple[int, int] | None
    repeated: int
    beyond: int


def evaluate(name: str, p: Problem, proposals: Ask, evaluations: int, stop: bool) -> Run:
    run, seen, best = Run([], 0, None, 0, 0), set[Genome](), -math.inf
    try:
        genome = next(proposals)
        while run.trials < 4 * evaluations:
            accuracy, ms = p.one(genome)
            run.trials += 1
            if genome in seen:
                run.repeated += 1
            elif ms > p.limit_ms:
                run.beyond += 1
                if name in LEARNS_BEYOND:
                    run.best.append(best)
            else:
                best = max(best, accuracy)
                run.best.append(best)
                if run.reached is None and best >= p.best - WITHIN:
                    run.reached = len(run.best), run.trials
            seen.add(genome)
            if len(run.best) >= evaluations or (stop and run.reached is not None):
                break
            genome = proposals.send((accuracy, ms))
    except StopIteration:
        pass
    if name in OURS and run.repeated + run.beyond:
        raise SystemExit(f"{name} on {p.name}: {run.repeated} trials repeated, {run.beyond} beyond the limit")
    return run


# ---- parts


def methods(only: Collection[str]) -> Iterator[tuple[str, Callable[[Problem, int, int], Ask], int, int]]:
    """(name, run, seeds, evaluations) of what can be imported; of `only` these, where it is not empty."""
    for name in OURS:
        if not only or name in only:
            yield name, ours(name), 50, 10**6
    for name, (package, run, seeds, most) in PEERS.items():
        if only and name not in only:
            continue
        if importlib.util.find_spec(package) is not None:
            yield name, run, seeds, most


def macro(
    kept: dict[str, Any], data: Path, seeds: int, late: Callable[[], bool], costly: bool, only: Collection[str]
) -> None:
    """`costly`: the peers that take seconds a trial, else all others."""
    problems = nas_bench_macro(data), channel_bench_macro(data)
    for name, make, few, most in methods(only):
        for p in problems:
            if (name in COSTLY) != costly:
                continue
            cells = kept.setdefault("macro", {}).setdefault(p.name, {})
            cell = cells.setdefault(name, {"cap": min(MOST, most), "runs": []})
            for seed in range(len(cell["runs"]), min(seeds, few)):
                if late():
                    return
                began = time.process_time()
                run = evaluate(name, p, make(p, seed, MOST), cell["cap"], stop=True)
                at = run.reached or (None, None)
                cell["runs"].append(
                    {"evaluations": at[0], "trials": at[1], "repeated": run.repeated, "beyond": run.beyond,
                     "cpu_s": round(time.process_time() - began, 2)}
                )  # fmt: skip
                cell["commit"] = short_commit()
                save(kept)
            # a run that did not get there counts as the cap
            cell["median"] = statistics.median(r["evaluations"] or cell["cap"] for r in cell["runs"])
            cell["reached"] = sum(r["evaluations"] is not None for r in cell["runs"])
            save(kept)
            print(p.name, name, cell["median"], "reached", cell["reached"], "of", len(cell["runs"]), flush=True)


SPACE_RUNS = (
    ("evolution", 1000, 20),
    ("rnn", 4000, 20),
    ("pymoo ga", 1000, 20),
    ("syne-tune rea", 1000, 20),
    ("optuna nsga2", 1000, 20),
    ("surrogate", 300, 5),
    ("random", 1000, 20),
    ("optuna tpe", 1000, 3),
    ("pymoo ga", 4000, 5),
    ("syne-tune rea", 4000, 5),
    ("optuna nsga2", 4000, 3),
)  # name, evaluations, seeds


def space(kept: dict[str, Any], seeds: int, late: Callable[[], bool], only: Collection[str]) -> None:
    known = {name: (make, few) for name, make, few, _ in methods(only)}
    problems: dict[float, Problem] = {}
    for name, n, least in SPACE_RUNS:
        if name not in known:
            continue
        make, few = known[name]
        for target in TARGETS:
            cells = kept.setdefault("space", {}).setdefault(f"{target:g} ms", {})
            cell = cells.setdefault(f"{name}, {n} evaluations", {"runs": []})
            todo = range(len(cell["runs"]), min(seeds, few, least))
            if len(todo) and target not in problems:
                problems[target] = under_limit(target)
                cells["best known"] = problems[target].best
            for seed in todo:
                if late():
                    return
                began = time.process_time()
                run = evaluate(name, problems[target], make(problems[target], seed, n), n, stop=False)
                cell["runs"].append(
                    {"best": run.best[-1] if run.best else None, "evaluations": len(run.best), "repeated": run.repeated,
                     "beyond": run.beyond, "cpu_s": round(time.process_time() - began, 1)}
                )  # fmt: skip
                cell["commit"] = short_commit()
                save(kept)
            # a sampler may pass the best that was known before it: regret is to the best of all
            every = [c for c in cells.values() if isinstance(c, dict) and c["runs"]]
            top = max([cells["best known"], *(r["best"] or 0 for c in every for r in c["runs"])])
            cells["best known"] = top
            for c in every:
                regrets = [top - (r["best"] or 0) for r in c["runs"]]
                c["median regret"], c["worst regret"] = round(statistics.median(regrets), 3), round(max(regrets), 3)
            save(kept)
            print(f"{target:g} ms", name, n, cell["median regret"], cell["worst regret"], flush=True)


def speed(kept: dict[str, Any]) -> None:
    """Trials a second on 30 genes with a score that costs nothing; Optuna's random sampler beside them."""
    import optuna

    blocks = "\n".join(f"  - {{name: b{i}, s: 1, out: 8, e: [2, 3, 4], k: [3, 5, 7], se: [0, 1]}}" for i in range(10))
    genes = parse_space(
        "format: mbv3-space/1\nname: free\ninput: {resolution: 32}\nstem: {k: 3, out: 8, nl: HS, s: 2}\n"
        f"blocks:\n{blocks}\nhead: {{features: 0, classes: 10}}\n"
    )
    rates: dict[str, Any] = {}
    for name in SAMPLERS:
        n = {"random": 20_000, "evolution": 20_000, "rnn": 1000, "nsga2": 200, "tpe": 100, "gp": 12}.get(name, 200)
        search = Search(
            genes, lambda g: 1.0, _Latency(lambda g: (1 + g.sum(1)) / 30), make_reward("mnasnet-soft", 1.0, 0.0),
            sampler=name, trials=n, accuracies=lambda g: g.sum(1) / 1.0,
        )  # fmt: skip
        began = time.process_time()
        done = sum(1 for _ in search.run(n))
        rates[name] = {"trials": done, "per_second": round(done / (time.process_time() - began), 1)}
        print(name, rates[name], flush=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = {g: optuna.distributions.CategoricalDistribution((0, 1, 2)) for g in genes.names}
    began = time.process_time()
    for _ in range(1000):
        study.tell(study.ask(names), 1.0)
    rates["optuna random, in memory"] = {"trials": 1000, "per_second": round(1000 / (time.process_time() - began), 1)}
    p = under_limit(50.0)
    began = time.process_time()
    solved = solve(p.space.sizes, p.accuracies, [Limit(p.latencies, p.limit_ms)], seed=0)
    took = time.process_time() - began
    rates["solve"] = {"networks": solved.evaluations, "per_second": round(solved.evaluations / took)}
    free = solve(p.space.sizes, lambda g: g.sum(1) / 1.0, [Limit(lambda g: g.sum(1) / 1.0, 30.0)], seed=0)
    rest = time.process_time() - began - took
    rates["solve, free score"] = {"networks": free.evaluations, "per_second": round(free.evaluations / rest)}
    print("solve", rates["solve"], rates["solve, free score"], flush=True)
    kept["speed"] = rates
    save(kept)


def _can_import(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def save(kept: dict[str, Any]) -> None:
    ran = {name for cells in kept.get("macro", {}).values() for name in cells}
    kept |= {
        "command": "python scripts/bench_samplers.py --data DIR", "profile": PROFILE, "space of targets": SPACE,
        "python": platform.python_version(), "machine": platform.machine(), "threads": 1,
        "commit": short_commit(),
        "absent": sorted({pkg for name, (pkg, *_) in PEERS.items() if name not in ran and not _can_import(pkg)}),
    }  # fmt: skip
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default="macro,space,speed,costly")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--only", default="", help="names of samplers and peers, with commas")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else ()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kept: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    end = time.monotonic() + 60 * args.minutes

    def late() -> bool:
        return time.monotonic() > end

    for part in args.parts.split(","):
        if part in ("macro", "costly"):
            macro(kept, args.data, args.seeds, late, part == "costly", only)
        elif part == "space":
            space(kept, args.seeds, late, only)
        else:
            speed(kept)
    save(kept)


if __name__ == "__main__":
    main()
