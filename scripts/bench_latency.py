"""How far latency tables can be trusted where `mbv3 latency check` does not look. It times: leave the machine alone.

    python scripts/bench_latency.py channels TABLE.csv [--networks 100]    NetAdapt's arbitrary channels, rows on demand
    python scripts/bench_latency.py pairs [--pairs 100]                    which of two networks is faster
    python scripts/bench_latency.py same A.csv B.csv                       two tables of one device, how far they agree

Each writes results/latency_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.latency import Device, LatencyTable, check_table, fidelity, open_runtime
from mbv3.space import load_space, scale
from mbv3.tables import Latency, cut_network, panel_of, random_networks, reference_of

ROOT = Path(__file__).resolve().parents[1]


def keep(name: str, result: dict[str, Any]) -> None:
    (ROOT / f"results/latency_{name}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in result.items() if not isinstance(v, list)}, indent=1))


def bench_channels(args: argparse.Namespace) -> None:
    """Predictions for networks with arbitrary channels: rows that the table lacks are measured, then the networks."""
    table = LatencyTable.load(args.table)
    about = dict(table.about or {})
    space = scale(load_space(about["space"]), about["width"], about["resolution"], about["classes"])
    f = table.fingerprint
    runtime = open_runtime(f.runtime + ("-int8" if f.precision == "int8" else ""), f.threads)
    table.require(runtime.fingerprint, args.table)
    drawn = random_networks(space, args.networks, 7000 + args.seed, "pruned")
    nets = [(f"pruned-{i}", cut_network(s, 1000 * (args.seed + 1) + i)) for i, (_, s) in enumerate(drawn)]
    device = Device(runtime, reference_of(table), table.reference_ms)
    latency = Latency(table, device, passes=args.passes)
    began = time.monotonic()
    missing = {k for _, s in nets for k in table.missing(s)}
    latency([s for _, s in nets])
    on_demand_s = time.monotonic() - began
    report = check_table(device, latency.table, nets, panel_of(table, space), minutes=args.minutes)
    networks = [[n["network"], round(n["predicted_ms"], 4), round(n["measured_ms"], 4)] for n in report["networks"]]
    if args.rows:
        latency.table.save(args.rows)
    keep("channels", {
        "command": f"python scripts/bench_latency.py channels TABLE.csv --networks {args.networks} "
        f"--passes {args.passes} --seed {args.seed}",
        "device": f.cpu, "runtime": f.runtime, "space": space.name, "rows_on_demand": len(missing),
        "on_demand_s": round(on_demand_s, 1), **report, "networks": networks,
    })  # fmt: skip


def wrong(pairs: list[tuple[int, int]], times: np.ndarray, gold: np.ndarray) -> float:
    """Percent of pairs that `times` order otherwise than `gold`."""
    return round(100 * float(np.mean([(times[a] < times[b]) != (gold[a] < gold[b]) for a, b in pairs])), 2)


def bench_pairs(args: argparse.Namespace) -> None:
    """Pairs of networks that differ by 2 to 5 % in a measurement ten times as long as ours, ordered by ours, by one run
    each and by 500 runs of one network after the other.

    Half of the long measurement is before the others and half after them: what networks take wanders, each its own way,
    and a long measurement that only follows would tell how far they have wandered since."""
    space = scale(load_space("mnasnet-imagenet"), 0.5, 224)
    nets = [s for _, s in random_networks(space, args.networks, 4321, "pair")]
    runtime = open_runtime("onnxruntime", 1)
    device = Device(runtime, nets[0])
    before = device.networks(nets, parts=5 * args.parts, seed=4)
    began = time.monotonic()
    ours = device.networks(nets, parts=args.parts, seed=3)  # about what `mbv3 latency measure --like` comes to
    ours_s = time.monotonic() - began
    one, many = [], []
    began = time.monotonic()
    for spec in nets:
        run = runtime.network(spec)
        run()
        runs = []
        for _ in range(500):
            t = time.perf_counter()
            run()
            runs.append(time.perf_counter() - t)
        one.append(runs[0])
        many.append(float(np.mean(runs)))
    many_s = time.monotonic() - began
    after = device.networks(nets, parts=5 * args.parts, seed=5)
    g = (np.array(before.ms) + np.array(after.ms)) / 2
    near = [(a, b) for a in range(len(nets)) for b in range(a) if 0.02 <= abs(g[a] / g[b] - 1) <= 0.05]
    rng = np.random.default_rng(0)
    pairs = [near[i] for i in rng.permutation(len(near))[: args.pairs]]
    keep("pairs", {
        "command": f"python scripts/bench_latency.py pairs --pairs {args.pairs} --networks {args.networks} "
        f"--parts {args.parts}",
        "device": runtime.fingerprint.cpu, "runtime": "onnxruntime", "space": f"{space.name}@0.5",
        "pairs": len(pairs), "pairs_there_are": len(near), "noise_floor": ours.noise_floor,
        "parts": args.parts, "gold_noise_floors": [before.noise_floor, after.noise_floor],
        "gold_halves_differ_percent": round(100 * float(np.std(np.log(np.array(after.ms) / before.ms))), 3),
        "wrong_percent": {
            "ours": wrong(pairs, np.array(ours.ms), g), "one_run": wrong(pairs, np.array(one), g),
            "500_runs_in_turn": wrong(pairs, np.array(many), g),
        },
        "wrong_percent_of_all_pairs": {
            "ours": wrong(near, np.array(ours.ms), g), "one_run": wrong(near, np.array(one), g),
            "500_runs_in_turn": wrong(near, np.array(many), g),
        },
        "seconds": {"ours": round(ours_s, 1), "500_runs_in_turn": round(many_s, 1)},
        "columns": ["gold before", "gold after", "ours", "one run", "500 runs in turn"],
        "networks": [list(map(float, row)) for row in zip(before.ms, after.ms, ours.ms, one, many, strict=True)],
    })  # fmt: skip


def bench_same(args: argparse.Namespace) -> None:
    """Two tables of one device, one built here and one that came from elsewhere: rows, calibration networks."""
    a, b = LatencyTable.load(args.a), LatencyTable.load(args.b)
    keys = [k for k in a.layers if k in b.layers]
    ratio = np.array([b.hot_ms(k) / b.reference_ms / (a.hot_ms(k) / a.reference_ms) for k in keys])
    nets = {n.label: n for n in b.networks}
    both = [(n, nets[n.label]) for n in a.networks if n.label in nets]
    whole = np.array([y.ms / b.reference_ms / (x.ms / a.reference_ms) for x, y in both])
    said = [b.calibration(y) / b.reference_ms for _, y in both]
    keep("same", {
        "device": b.fingerprint.cpu, "same_fingerprint": a.fingerprint.id == b.fingerprint.id, "rows": len(keys),
        "row_ratio_p10_p50_p90": np.percentile(ratio, [10, 50, 90]).round(4).tolist(),
        "networks": len(both), "network_ratio_mean": round(float(whole.mean()), 4),
        "network_ratio_sd_percent": round(100 * float(whole.std()), 2),
        "b_predicts_a": fidelity(said, [x.ms / a.reference_ms for x, _ in both]),
    })  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(required=True)
    s = verbs.add_parser("channels")
    s.add_argument("table")
    s.add_argument("--networks", type=int, default=100)
    s.add_argument("--seed", type=int, default=0)
    s.add_argument("--minutes", type=float, default=4.0)
    s.add_argument("--passes", type=int, default=6, help="over the rows measured on demand")
    s.add_argument("--rows", type=Path, metavar="FILE", help="keep the table with the rows measured on demand")
    s.set_defaults(run=bench_channels)
    s = verbs.add_parser("pairs")
    s.add_argument("--pairs", type=int, default=100)
    s.add_argument("--networks", type=int, default=70)
    s.add_argument("--parts", type=int, default=7, help="of our own measurement; the long one has ten times as many")
    s.set_defaults(run=bench_pairs)
    s = verbs.add_parser("same")
    s.add_argument("a")
    s.add_argument("b")
    s.set_defaults(run=bench_same)
    args = p.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
