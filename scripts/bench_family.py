"""The networks of the papers against each other on this CPU, beside the published ratios. It times: leave the machine
alone.

    python scripts/bench_family.py                         every group on both runtimes
    python scripts/bench_family.py --groups table3 --runtimes litert
    python scripts/bench_family.py --shrink 8 --rounds 2   a trial on small images, which tells nothing

All networks of a runtime are timed in turn, in the same rounds. Writes results/family_RUNTIME[_GROUPS].json: every
network's times part by part, the ratios, the order of the segmentation systems.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any

from json_lines import short_commit

from mbv3.latency import NETWORK_ROUNDS, Device, Measured, check_portable, open_runtime
from mbv3.spec import ArchSpec, count, load_spec

ROOT = Path(__file__).resolve().parents[1]
HALF = (512, 1024)

# network -> published ms: Pixel 1 (Howard 2019, Tables 3 and 6), Pixel 3 at 512x1024 (Table 7), and mmsegmentation's
# V100 at 512x1024 (its model index; the MobileNetV3 ones from frames per second)
PUBLISHED: dict[str, dict[str, float]] = {
    "table3": {
        "mobilenet_v3_large": 51,
        "mobilenet_v2": 64,
        "mnasnet_a1": 71,
        "mobilenet_v3_small": 15.8,
        "mobilenet_v2@0.35": 16.6,
    },
    "table6": {
        "table6_v3_large": 137,
        "table6_v3_large_halved": 119,
        "table6_v2": 162,
        "table6_mnasnet": 174,
        "table6_v3_small": 52,
        "table6_v3_small_halved": 43,
    },
    "table7": {
        f"table7_row{i}": ms for i, ms in enumerate((1020, 793, 786, 766, 906, 668, 659, 657, 415, 354, 327), start=1)
    },
    "mmseg": {
        "lraspp_m-v3s-d8": 1000 / 23.64,
        "lraspp_m-v3-d8": 1000 / 15.22,
        "fcn_m-v2-d8": 70.42,
        "pspnet_m-v2-d8": 89.29,
        "deeplabv3_m-v2-d8": 119.05,
        "deeplabv3plus_m-v2-d8": 119.05,
    },
}
RATIOS = {  # group -> (what, of which, to which)
    "table3": [
        ("V3-Large / V2", "mobilenet_v3_large", "mobilenet_v2"),
        ("V3-Small / V2 0.35", "mobilenet_v3_small", "mobilenet_v2@0.35"),
        ("MnasNet-A1 / V3-Large", "mnasnet_a1", "mobilenet_v3_large"),
    ],
    "table6": [
        ("SSDLite V3 full / halved", "table6_v3_large", "table6_v3_large_halved"),
        ("SSDLite V3 / V2", "table6_v3_large", "table6_v2"),
        ("SSDLite V3 halved / V2", "table6_v3_large_halved", "table6_v2"),
        ("SSDLite V3-Small full / halved", "table6_v3_small", "table6_v3_small_halved"),
    ],
    "table7": [
        ("V2: LR-ASPP / R-ASPP", "table7_row3", "table7_row2"),
        ("V3: LR-ASPP / R-ASPP", "table7_row7", "table7_row6"),
        ("V3: F 128 / F 256", "table7_row8", "table7_row7"),
        ("V2: last block halved / whole", "table7_row2", "table7_row1"),
        ("V3: last block halved / whole", "table7_row6", "table7_row5"),
        ("R-ASPP: V3 / V2", "table7_row5", "table7_row1"),
        ("LR-ASPP: V3 / V2", "table7_row8", "table7_row4"),
        ("LR-ASPP: V3-Small / V2 0.35", "table7_row11", "table7_row10"),
    ],
    "mmseg": [
        ("LR-ASPP V3 / V3-Small", "lraspp_m-v3-d8", "lraspp_m-v3s-d8"),
        ("FCN V2 / LR-ASPP V3", "fcn_m-v2-d8", "lraspp_m-v3-d8"),
        ("DeepLabV3 V2 / FCN V2", "deeplabv3_m-v2-d8", "fcn_m-v2-d8"),
        ("DeepLabV3+ / DeepLabV3", "deeplabv3plus_m-v2-d8", "deeplabv3_m-v2-d8"),
    ],
}


def network(group: str, name: str, shrink: int) -> ArchSpec:
    spec = load_spec(name)
    h, w = HALF if group == "table7" else spec.resolution
    return replace(spec, resolution=(max(h // shrink, 32), max(w // shrink, 32)))


def ratios(group: str, ms: dict[str, float], errors: dict[str, float]) -> list[dict[str, Any]]:
    """Ours with the standard error that those of its two times give, beside the published."""
    found = []
    for what, a, b in RATIOS[group]:
        ours = ms[a] / ms[b]
        error = ours * ((errors[a] / ms[a]) ** 2 + (errors[b] / ms[b]) ** 2) ** 0.5
        published = PUBLISHED[group][a] / PUBLISHED[group][b]
        found.append({"what": what, "ours": round(ours, 4), "error": round(error, 4), "published": round(published, 4)})
    return found


def report(groups: list[str], specs: dict[str, ArchSpec], measured: Measured) -> dict[str, Any]:
    ms = dict(zip(specs, measured.ms, strict=True))
    errors = dict(zip(specs, measured.errors_ms, strict=True))
    parts = dict(zip(specs, measured.parts, strict=True))
    networks = []
    for group in groups:
        for name, published in PUBLISHED[group].items():
            counts = count(specs[name])
            networks.append({
                "group": group, "name": name, "resolution": specs[name].resolution, "params": counts.params,
                "madds": counts.madds, "ms": ms[name], "error_ms": errors[name], "parts_ms": parts[name],
                "published_ms": round(published, 2),
            })  # fmt: skip
    result: dict[str, Any] = {"networks": networks, "ratios": {g: ratios(g, ms, errors) for g in groups}}
    if "mmseg" in groups:
        result["mmseg_order"] = {
            "ours": sorted(PUBLISHED["mmseg"], key=lambda name: ms[name]),
            "published": sorted(PUBLISHED["mmseg"], key=PUBLISHED["mmseg"].__getitem__),
            # the two DeepLabs are published as equal: either may be first
            "inverted": [
                [a, b]
                for a, b in permutations(PUBLISHED["mmseg"], 2)
                if PUBLISHED["mmseg"][a] < PUBLISHED["mmseg"][b] and ms[a] > ms[b]
            ],
        }
    return result


def bench(runtime: str, args: argparse.Namespace) -> dict[str, Any]:
    specs = {name: network(g, name, args.shrink) for g in args.groups for name in PUBLISHED[g]}
    began = time.monotonic()
    device = Device(open_runtime(runtime, args.threads), load_spec("mobilenet_v3_large"))
    measured = device.networks(
        list(specs.values()), rounds=args.rounds, parts=args.parts, seed=args.seed, max_s=args.max_s
    )
    return {
        "command": " ".join(["python scripts/bench_family.py", *sys.argv[1:]]),
        "commit": short_commit(),
        "device": asdict(device.fingerprint),
        "rounds": args.rounds,
        "parts": args.parts,
        "reference_ms": measured.raw_reference_ms,
        "drift": measured.drift,
        "noise_floor": measured.noise_floor,
        "took_s": round(time.monotonic() - began, 1),
        **report(args.groups, specs, measured),
    }


def show(runtime: str, result: dict[str, Any]) -> None:
    print(f"{runtime}, noise floor {result['noise_floor']:.2f} %, {result['took_s']:.0f} s")
    for n in result["networks"]:
        print(f"  {n['name']:<28}{n['ms']:10.2f} ms +- {n['error_ms']:.2f}   published {n['published_ms']:g}")
    for group, found in result["ratios"].items():
        for r in found:
            print(f"  {group:<8}{r['what']:<32}{r['ours']:6.3f} +- {r['error']:.3f}   published {r['published']:.3f}")
    if "mmseg_order" in result:
        inverted = [" before ".join(reversed(pair)) for pair in result["mmseg_order"]["inverted"]]
        print(f"  order of the segmentation systems {'; '.join(inverted) or 'as published'}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--groups", nargs="+", choices=tuple(PUBLISHED), default=list(PUBLISHED))
    p.add_argument("--runtimes", nargs="+", default=["onnxruntime", "litert"])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=NETWORK_ROUNDS)
    p.add_argument("--parts", type=int, default=4)
    p.add_argument("--max-s", type=float, default=float("inf"), help="a part takes no longer than about this")
    p.add_argument("--shrink", type=int, default=1, metavar="N", help="images of 1/N the side")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=ROOT / "results")
    args = p.parse_args()
    for runtime in args.runtimes:
        check_portable(runtime)
    for runtime in args.runtimes:
        result = bench(runtime, args)
        some = "" if len(args.groups) == len(PUBLISHED) else "_" + "_".join(args.groups)
        (args.out / f"family_{runtime}{some}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        show(runtime, result)


if __name__ == "__main__":
    main()
