"""What a cut costs before any fine-tuning, and what is left of that where the layers that read it make up for it.

    python scripts/bench_netadapt_mend.py --weights mobilenet_v3_small_imagenet.pth --photos imagenet500-256.tar

Every site of MobileNetV3-Small with ImageNet weights is cut to half by itself, the filters of largest L2 norm stay, and
the batch norms are recalibrated. Moments and statistics are of half of the photos, loss and top-1 of the other half. A
photo's name ends with the index of its class. Lines go to --out; a site that it has is not cut again.
"""

from __future__ import annotations

import argparse
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from json_lines import append, lines_of
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mbv3.export import read_any_weights
from mbv3.nn import MEAN, STD, build, cut_state, input_moments
from mbv3.spec import LEAST_CHANNELS, ArchSpec, all_sites, channels, cut, load_spec
from mbv3.training import recalibrate

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-mend.jsonl"
BATCH = 64


def photos(tar: Path, px: int) -> tuple[Tensor, Tensor]:
    """(images (N, 3, H, W), classes) in the order of their names."""
    images, classes = [], []
    with tarfile.open(tar) as files:
        for member in sorted((m for m in files if m.name.endswith(".jpg")), key=lambda m: m.name):
            file = files.extractfile(member)
            assert file is not None
            with Image.open(BytesIO(file.read())) as image:
                images.append(np.asarray(image.convert("RGB").resize((px, px), Image.Resampling.BILINEAR)))
            classes.append(int(member.name.removesuffix(".jpg").rpartition("_")[2]))
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last), torch.tensor(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenet_v3_small")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--px", type=int, default=160)
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    torch.set_num_threads(1)
    named = load_spec(o.net)
    # zeros on both sides, as when the statistics of these weights were taken: they are recalibrated here
    spec = replace(named, resolution=(o.px, o.px))
    net = build(spec, 0)
    net.load_state_dict(read_any_weights(o.weights, named).state, strict=False)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = photos(o.photos, o.px)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    learn, judge = order[: len(x) // 2], order[len(x) // 2 :]
    moments = input_moments(net, x[learn].split(BATCH))

    def judged(smaller: ArchSpec, weights: dict[str, Tensor]) -> dict[str, float]:
        net = build(smaller, 0)
        net.load_state_dict(weights)
        recalibrate(net, x[learn].split(BATCH))
        with torch.inference_mode():
            out = torch.cat([net(part) for part in x[judge].split(BATCH)])
        right = (out.argmax(1) == y[judge]).float().mean()
        return {"loss": round(float(functional.cross_entropy(out, y[judge])), 4), "top1": round(100 * float(right), 2)}

    have = lines_of(o.out)
    about = {"net": o.net, "px": o.px, "n": len(judge)}
    uncut = judged(spec, state)
    for site in all_sites(spec):
        key = {**about, "kind": site.kind, "where": str(site)}
        now = channels(spec, site)
        smaller = cut(spec, site, max(LEAST_CHANNELS, now // 2))
        if smaller is None or any(key.items() <= line.items() for line in have):
            continue
        line = {
            **key, "before": now, "after": channels(smaller, site), "uncut": uncut,
            "plain": judged(smaller, cut_state(state, spec, smaller)),
            "mended": judged(smaller, cut_state(state, spec, smaller, moments=moments)),
        }  # fmt: skip
        have.append(line)
        append(o.out, line)
    mine = [line for line in have if about.items() <= line.items()]
    for what in ("plain", "mended"):
        loss, top1 = (np.mean([line[what][k] - line["uncut"][k] for line in mine]) for k in ("loss", "top1"))
        print(f"{what}: loss {loss:+.3f}, top-1 {top1:+.2f} points, mean of {len(mine)} sites")
    better = sum(line["mended"]["loss"] < line["plain"]["loss"] for line in mine)
    print(f"lower loss where it is made up for: {better} of {len(mine)}")


if __name__ == "__main__":
    main()
