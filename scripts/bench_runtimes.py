"""The network found for each runtime, timed on both: what the wrong choice costs.

    python scripts/bench_runtimes.py run [--shares 0.5 1] [--seeds 0]
    python scripts/bench_runtimes.py figures

A target is a share of what MobileNetV3-Large takes on the runtime. `mbv3.find` searches for ONNX Runtime and for
LiteRT; the two networks are then timed in the same rounds on each of them, where both runtimes' times are ratios to
MobileNetV3-Large's of these rounds. A line of JSON a pair is appended to --out; a pair that is there is not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from json_lines import append, lines_of, short_commit

import mbv3
from mbv3.latency import Device, open_runtime
from mbv3.spec import ArchSpec, dump_spec
from mbv3.tables import measure_network, reference_at

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "runtimes.jsonl"
RUNTIMES = ("onnxruntime", "litert")
PARTS, PART_S = 16, 1.5


def times_on(runtime: str, specs: list[ArchSpec]) -> list[list[float]]:
    """Ratios to MobileNetV3-Large in each part of the measurement, by network."""
    measured = Device(open_runtime(runtime, 1), reference_at(1.0, 224), 1.0).networks(specs, parts=PARTS, max_s=PART_S)
    return [list(parts) for parts in measured.parts]


def pair(share: float, seed: int) -> dict[str, Any]:
    """A network for each runtime, and their times on both."""
    large, found = mbv3.load_spec("mobilenet_v3_large"), {}
    line: dict[str, Any] = {"share": share, "seed": seed, "cpu": open_runtime(RUNTIMES[0], 1).fingerprint.cpu}
    for runtime in RUNTIMES:
        target_ms = share * measure_network(large, open_runtime(runtime, 1)).ms
        with tempfile.TemporaryDirectory() as folder:
            one = mbv3.find(target_ms, out=Path(folder) / "run", runtime=runtime, seed=seed)
            found[runtime] = one.spec
        assert one.record.accuracy is not None
        line[runtime] = {
            "target_ms": target_ms, "measured_ms": one.measured_ms, "accuracy": one.record.accuracy.value,
            "accuracy_error": one.record.accuracy.error, "params": one.record.params, "madds": one.record.madds,
            "spec": dump_spec(found[runtime]),
        }  # fmt: skip
    for runtime in RUNTIMES:
        line[f"on_{runtime}"] = dict(zip(RUNTIMES, times_on(runtime, [found[r] for r in RUNTIMES]), strict=True))
    return {**line, "load": os.getloadavg()[0], "commit": short_commit()}


def slower(line: dict[str, Any], runtime: str) -> tuple[float, float]:
    """By how many percent the network found for the other runtime is slower on `runtime`, and the standard error."""
    [other] = set(RUNTIMES) - {runtime}
    on = line[f"on_{runtime}"]
    by = [100 * (wrong / right - 1) for wrong, right in zip(on[other], on[runtime], strict=True)]
    return statistics.fmean(by), statistics.stdev(by) / math.sqrt(len(by))


def figures(out: Path) -> None:
    for line in lines_of(out):
        print(f"{line['share']:g} of MobileNetV3-Large's time, seed {line['seed']}, {line['cpu']}")
        for runtime in RUNTIMES:
            [other] = set(RUNTIMES) - {runtime}
            by, error = slower(line, runtime)
            mine, theirs = line[runtime], line[other]
            print(
                f"  on {runtime}: found for it {mine['accuracy']:.1f} % predicted, measured "
                f"{mine['measured_ms']:.3f} ms of {mine['target_ms']:.3f}; the one found for {other} "
                f"({theirs['accuracy']:.1f} %) is {by:+.1f} +- {error:.1f} % slower"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "figures"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.what == "figures":
        figures(args.out)
        return
    for share in args.shares:
        for seed in args.seeds:
            if not any((x["share"], x["seed"]) == (share, seed) for x in lines_of(args.out)):
                append(args.out, pair(share, seed))


if __name__ == "__main__":
    main()
