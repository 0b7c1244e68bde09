"""Whether joint cuts meet what is asked: targets between the least and the most that a network can take.

    python scripts/bench_netadapt_targets.py --device pixel-1
    python scripts/bench_netadapt_targets.py --measure

Without --measure times are those of a table, rows that it lacks estimated. With --measure this CPU is the device: the
layers are timed into --table, the networks found are timed whole, and once more in sessions of their own after the
last one, beside the uncut network. Images are noise and fine-tuning is one step: only times are looked at. Lines go to
--out, two a target with --measure: what was found, and its second time; a line that is there is not made again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import append, lines_of

from mbv3.data import ImageSet
from mbv3.errors import Unreachable
from mbv3.events import result
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.nn import build
from mbv3.spec import all_sites, dump_spec, load_spec, parse_spec, smallest
from mbv3.stages import Images, network_table, shrink
from mbv3.tables import VERDICT_PARTS, Latency, read_table, reference_of

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-targets.jsonl"
CLASSES, SIDE = 4, 32
Lines = list[dict[str, Any]]


def noise(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % CLASSES, tuple(map(str, range(CLASSES))), "")


def find(o: argparse.Namespace, latency: Latency, about: dict[str, Any], have: Lines) -> None:
    """A line for every target that has none."""
    spec = load_spec(o.net)
    images = Images(noise(64, 0), noise(32, 1), (SIDE, SIDE))
    most, least = latency.rough()([spec, smallest(spec, all_sites(spec))])
    state = build(spec, 0).state_dict()
    for i in range(o.count):
        mine = {**about, "target": i + 1, "of": o.count}
        if any(mine.items() <= line.items() for line in have):
            continue
        target = least + (most - least) * (i + 1) / (o.count + 1)
        began = time.monotonic()
        try:
            found = result(shrink(spec, latency, images, target, weights=state, steps=1))
        except Unreachable as e:
            line = {**mine, "target_ms": target, "unreachable": str(e)}
        else:
            line = {**mine, "target_ms": target, "ms": found.ms, "slack": 1 - found.ms / target, "uncut_ms": most,
                    "reached": found.reached, "spec": dump_spec(found.spec)}  # fmt: skip
        put(o.out, {**line, "s": round(time.monotonic() - began, 1)}, have)
        print(i + 1, f"{target:.4f} ms asked", f"{line.get('ms', float('nan')):.4f} found", flush=True)


def measure_again(latency: Latency, o: argparse.Namespace, have: Lines, mine: Lines) -> None:
    """A second line for every network found: its time and the uncut network's, each in eight new sessions."""
    for line in mine:
        about = {k: line[k] for k in ("net", "device", "target", "of")} | {"again": True}
        if not any(about.items() <= other.items() for other in have):
            whole = latency.measure(parse_spec(line["spec"], "line"), VERDICT_PARTS)
            uncut = latency.measure(load_spec(o.net), VERDICT_PARTS)
            assert whole is not None and uncut is not None
            found = {"ms": whole.ms, "error_ms": whole.error_ms, "uncut_ms": uncut.ms, "target_ms": line["target_ms"]}
            put(o.out, {**about, **found, "slack": 1 - whole.ms / line["target_ms"]}, have)


def put(out: Path, line: dict[str, Any], have: Lines) -> None:
    have.append(line)
    append(out, line, quiet=True)


def show(lines: Lines, count: int, what: str) -> None:
    met = sum(line["ms"] <= line["target_ms"] for line in lines)
    slower = sum(line["ms"] > line["uncut_ms"] for line in lines)
    slack = 100 * np.array([line["slack"] for line in lines])
    spread = f"slack {slack.mean():.2f} % in the mean, {slack.min():.2f} to {slack.max():.2f}"
    print(f"{what}: {met} of {count} met, {spread}; {slower} slower than the uncut network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenet_v3_small")
    parser.add_argument("--device", default="pixel-1", help="of the table, without --measure")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--table", type=Path, help="of this CPU, with --measure; made where it is not there")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    torch.set_num_threads(1)
    if o.measure:
        if o.table is None:
            parser.error("--measure needs --table FILE, where the table of this CPU is or will be")
        runtime = open_runtime("onnxruntime", 1)
        if not o.table.exists():
            result(network_table(load_spec(o.net), runtime, o.table))
        table = LatencyTable.load(o.table)
        table.require(runtime.fingerprint, str(o.table))
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
        device = table.fingerprint.cpu
    else:
        latency, device = Latency(read_table(o.device, "onnxruntime", 1, True)[0], None), o.device
    about = {"net": o.net, "device": device}
    have = lines_of(o.out)
    find(o, latency, about, have)
    every = [line for line in have if (about | {"of": o.count}).items() <= line.items() and "ms" in line]
    mine = [line for line in every if "again" not in line]
    show(mine, o.count, "measured" if o.measure else "predicted")
    if o.measure:
        measure_again(latency, o, have, mine)
        every = [line for line in have if (about | {"of": o.count, "again": True}).items() <= line.items()]
        show(every, o.count, "measured again")


if __name__ == "__main__":
    main()
