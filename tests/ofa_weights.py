"""Once-for-All's MobileNetV3 supernet stated a second time, from paper and package (Cai 2020, arXiv:1908.09791): names
and shapes of its tensors, random values for them, and what a sub-network of them answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mbv3.space import Genome, SearchSpace

__all__ = ["answers", "old_names", "settings", "tensors"]

# widths of stem, first block, five stages, last convolution, features
CHANNELS = {
    1.0: (16, 16, 24, 40, 80, 112, 160, 960, 1280),
    1.2: (24, 24, 32, 48, 96, 136, 192, 1152, 1536),
}
STRIDES, SQUEEZED, SWISH = (2, 2, 2, 1, 2), (False, True, False, True, True), (False, False, True, True, True)
Settings = tuple[list[int], list[int], list[int]]  # kernels and expansions of 20 blocks, depths of 5 stages


def _squeeze(channels: int) -> int:
    """A quarter, to a multiple of 8 that is not under nine tenths of it."""
    quarter = channels / 4
    near = max(8, int(quarter + 4) // 8 * 8)
    return near + 8 if near < 0.9 * quarter else near


def shapes(width: float) -> dict[str, tuple[int, ...]]:
    stem, first, *stages, last, features = CHANNELS[width]
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, c: int) -> None:
        found.update({f"{name}.{part}": (c,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    found["first_conv.conv.weight"] = (stem, 3, 3, 3)
    norm("first_conv.bn", stem)
    found["blocks.0.conv.depth_conv.conv.weight"] = (stem, 1, 3, 3)
    norm("blocks.0.conv.depth_conv.bn", stem)
    found["blocks.0.conv.point_linear.conv.weight"] = (first, stem, 1, 1)
    norm("blocks.0.conv.point_linear.bn", first)
    cin, n = first, 1
    for out, se in zip(stages, SQUEEZED, strict=True):
        for _ in range(4):
            at, mid = f"blocks.{n}.conv", 6 * cin
            found[f"{at}.inverted_bottleneck.conv.conv.weight"] = (mid, cin, 1, 1)
            norm(f"{at}.inverted_bottleneck.bn.bn", mid)
            found[f"{at}.depth_conv.conv.5to3_matrix"] = (9, 9)
            found[f"{at}.depth_conv.conv.7to5_matrix"] = (25, 25)
            found[f"{at}.depth_conv.conv.conv.weight"] = (mid, 1, 7, 7)
            norm(f"{at}.depth_conv.bn.bn", mid)
            if se:
                for layer, shape in (("reduce", (_squeeze(mid), mid)), ("expand", (mid, _squeeze(mid)))):
                    found[f"{at}.depth_conv.se.fc.{layer}.weight"] = (*shape, 1, 1)
                    found[f"{at}.depth_conv.se.fc.{layer}.bias"] = shape[:1]
            found[f"{at}.point_linear.conv.conv.weight"] = (out, mid, 1, 1)
            norm(f"{at}.point_linear.bn.bn", out)
            cin, n = out, n + 1
    found["final_expand_layer.conv.weight"] = (last, cin, 1, 1)
    norm("final_expand_layer.bn", last)
    found["feature_mix_layer.conv.weight"] = (features, last, 1, 1)
    found["classifier.linear.weight"], found["classifier.linear.bias"] = (1000, features), (1000,)
    return found


def tensors(width: float = 1.0, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by the names of the newer files; a swapped batch norm and a matrix left out would be seen."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(width).items():
        value = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("matrix"):
            value = np.eye(shape[0], dtype=np.float32) + 0.1 * value
        elif len(shape) > 1:
            value *= np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith("running_var"):
            value = rng.uniform(1.0, 3.0, shape).astype(np.float32)
        elif name.endswith("bn.weight"):  # small enough that 20 blocks do not amplify the rounding of floats
            value = rng.uniform(0.4, 1.0, shape).astype(np.float32)
        elif shape:
            value *= np.float32(0.2)
        found[name] = torch.tensor(7) if not shape else torch.from_numpy(value)
    return found


def old_names(new: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the files that were published first."""
    parts = ("inverted_bottleneck", "depth_conv", "point_linear")

    def old(name: str) -> str:
        for part in parts:
            name = name.replace(f".conv.{part}.", f".mobile_inverted_conv.{part}.")
        return name

    return {old(name): value for name, value in new.items()}


def settings(space: SearchSpace, genome: Genome) -> Settings:
    """A genome of ofa-mbv3 as the package has it: of a stage the first d blocks are used."""
    choices = space.decode(genome)
    kernels, expansions, depths = [], [], []
    for stage in range(1, 6):
        names = [f"block{stage}_{j}" for j in range(1, 5)]
        used = [name for name in names if choices.get(f"{name}_l", 1)]
        pad = 4 - len(used)
        kernels += [*(int(choices[f"{name}_k"]) for name in used), *[3] * pad]
        expansions += [*(int(choices[f"{name}_e"]) for name in used), *[3] * pad]
        depths.append(len(used))
    return kernels, expansions, depths


def answers(at: dict[str, Tensor], of: Settings, x: Tensor) -> Tensor:
    """Logits of the sub-network `of` on the weights `at`, by the formulas, with the statistics as they are stored."""
    kernels, expansions, depths = of

    def norm(name: str, y: Tensor) -> Tensor:
        c = y.shape[1]
        mean, var, gain, bias = (at[f"{name}.{p}"][:c] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, mean, var, gain, bias, False, 0.0, 1e-5)

    x = F.hardswish(norm("first_conv.bn", F.conv2d(x, at["first_conv.conv.weight"], stride=2, padding=1)))
    y = F.conv2d(x, at["blocks.0.conv.depth_conv.conv.weight"], padding=1, groups=x.shape[1])
    y = norm("blocks.0.conv.depth_conv.bn", y).relu()
    x = x + norm("blocks.0.conv.point_linear.bn", F.conv2d(y, at["blocks.0.conv.point_linear.conv.weight"]))
    for stage, depth in enumerate(depths):
        act = F.hardswish if SWISH[stage] else F.relu
        for j in range(depth):
            i = 4 * stage + j
            block, mid = f"blocks.{i + 1}.conv", expansions[i] * x.shape[1]
            y = F.conv2d(x, at[f"{block}.inverted_bottleneck.conv.conv.weight"][:mid])
            y = act(norm(f"{block}.inverted_bottleneck.bn.bn", y))
            kernel, k = at[f"{block}.depth_conv.conv.conv.weight"][:mid, 0], kernels[i]
            if k < 7:
                kernel = kernel[:, 1:6, 1:6].reshape(mid, 25) @ at[f"{block}.depth_conv.conv.7to5_matrix"].T
                kernel = kernel.reshape(mid, 5, 5)
            if k < 5:
                kernel = kernel[:, 1:4, 1:4].reshape(mid, 9) @ at[f"{block}.depth_conv.conv.5to3_matrix"].T
                kernel = kernel.reshape(mid, 3, 3)
            stride = STRIDES[stage] if j == 0 else 1
            y = act(norm(f"{block}.depth_conv.bn.bn", F.conv2d(y, kernel[:, None], None, stride, k // 2, 1, mid)))
            if SQUEEZED[stage]:
                fc, s = f"{block}.depth_conv.se.fc", _squeeze(mid)
                z = F.conv2d(y.mean((2, 3), True), at[f"{fc}.reduce.weight"][:s, :mid], at[f"{fc}.reduce.bias"][:s])
                z = F.conv2d(z.relu(), at[f"{fc}.expand.weight"][:mid, :s], at[f"{fc}.expand.bias"][:mid])
                y = y * F.relu6(z + 3) / 6
            y = norm(f"{block}.point_linear.bn.bn", F.conv2d(y, at[f"{block}.point_linear.conv.conv.weight"][:, :mid]))
            x = x + y if j else y
    x = F.hardswish(norm("final_expand_layer.bn", F.conv2d(x, at["final_expand_layer.conv.weight"])))
    x = F.hardswish(F.conv2d(x.mean((2, 3), True), at["feature_mix_layer.conv.weight"]))
    return F.linear(x.flatten(1), at["classifier.linear.weight"], at["classifier.linear.bias"])


def genomes(space: SearchSpace, seed: int, n: int) -> Sequence[Genome]:
    """The smallest, the largest and `n` drawn ones."""
    drawn = space.sample(np.random.default_rng(seed), n)
    ends = [tuple(0 for _ in space.sizes), tuple(size - 1 for size in space.sizes)]
    return [*ends, *(tuple(int(g) for g in row) for row in drawn)]
