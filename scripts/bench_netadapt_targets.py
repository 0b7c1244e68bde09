"""Whether joint cuts meet what is asked: targets between the least and the most that a network can take.

    python scripts/bench_netadapt_targets.py --device pixel-1
    python scripts/bench_netadapt_targets.py --measure

Without --measure times are those of a table, rows that it lacks estimated. With --measure this CPU is the device: the
layers are timed, the networks found are timed whole, and once more in a session of their own at the end. Images are
noise and fine-tuning is one step: only times are looked at. Lines go to --out, one a target; a target that it has is
not asked for again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv3.data import ImageSet
from mbv3.errors import Unreachable
from mbv3.events import result
from mbv3.latency import Device, open_runtime
from mbv3.nn import build
from mbv3.spec import all_sites, dump_spec, load_spec, parse_spec, smallest
from mbv3.stages import Images, network_table, shrink
from mbv3.tables import VERDICT_PARTS, Latency, read_table, reference_of

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-targets.jsonl"
CLASSES, SIDE = 4, 32


def noise(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % CLASSES, tuple(map(str, range(CLASSES))), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenet_v3_small")
    parser.add_argument("--device", default="pixel-1")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    torch.set_num_threads(1)
    spec = load_spec(o.net)
    if o.measure:
        runtime = open_runtime("onnxruntime", 1)
        with tempfile.TemporaryDirectory() as folder:
            table = result(network_table(spec, runtime, Path(folder) / "table.csv"))
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
        device = table.fingerprint.cpu
    else:
        latency, device = Latency(read_table(o.device, "onnxruntime", 1, True)[0], None), o.device
    images = Images(noise(64, 0), noise(32, 1), (SIDE, SIDE))
    most, least = latency.rough()([spec, smallest(spec, all_sites(spec))])
    done = [json.loads(line) for line in o.out.read_text().splitlines()] if o.out.exists() else []
    state = build(spec, 0).state_dict()
    for i in range(o.count):
        about: dict[str, Any] = {"net": o.net, "device": device, "target": i + 1, "of": o.count}
        if any(about.items() <= line.items() for line in done):
            continue
        target = least + (most - least) * (i + 1) / (o.count + 1)
        try:
            found = result(shrink(spec, latency, images, target, weights=state, steps=1))
        except Unreachable as e:
            line = {**about, "target_ms": target, "unreachable": str(e)}
        else:
            line = {**about, "target_ms": target, "ms": found.ms, "slack": 1 - found.ms / target,
                    "reached": found.reached, "spec": dump_spec(found.spec)}  # fmt: skip
        done.append(line)
        with o.out.open("a") as f:
            f.write(json.dumps(line) + "\n")
        print(i + 1, f"{target:.4f} ms asked", f"{line.get('ms', float('nan')):.4f} found", flush=True)
    mine = [line for line in done if line["net"] == o.net and line["device"] == device and "ms" in line]
    met = [line for line in mine if line["ms"] <= line["target_ms"]]
    slack = np.array([line["slack"] for line in mine])
    print(f"{len(met)} of {o.count} met, slack {100 * slack.mean():.2f} % in the mean, {100 * slack.max():.2f} at most")
    if o.measure:
        again = [latency.measure(parse_spec(line["spec"], "line"), VERDICT_PARTS) for line in mine]
        for line, whole in zip(mine, again, strict=True):
            assert whole is not None
            print(f"{line['target_ms']:.4f} ms asked, measured again {whole.ms:.4f} +- {whole.error_ms:.4f}")


if __name__ == "__main__":
    main()
