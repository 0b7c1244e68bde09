"""The ops of the lowering, carried out by torch; modules have the names of the ops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbv3.spec import IMAGE, Op, far_pads

__all__ = ["ACTS", "OpsNet", "run_op"]

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "RE": functional.relu,
    "RE6": functional.relu6,
    "HS": functional.hardswish,
    "SILU": functional.silu,
    "HSIGMOID": functional.hardsigmoid,
    "SIGMOID": torch.sigmoid,
}
# where nobody else reads what the activation is of: a third less memory in training
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "RE": lambda x: functional.relu(x, inplace=True),
    "RE6": lambda x: functional.relu6(x, inplace=True),
    "HS": lambda x: functional.hardswish(x, inplace=True),
    "SILU": functional.silu,  # its gradient needs what it is of
    "HSIGMOID": lambda x: functional.hardsigmoid(x, inplace=True),
    "SIGMOID": torch.sigmoid,
}


def run_op(op: Op, at: Mapping[str, Tensor], image: tuple[int, int] | None = None, in_place: bool = False) -> Tensor:
    """The output of an op that has no weights, from the tensors `at`; `image`: height and width of the input."""
    x, *more = (at[name] for name in op.inputs)
    if op.kind == "act":
        return (_IN_PLACE if in_place else ACTS)[op.nl](x)
    if op.kind == "gpool":
        return x.mean((2, 3), keepdim=True)
    if op.kind == "pool":
        return functional.avg_pool2d(x, op.k, op.s, (op.k - 1) // 2, count_include_pad=False)
    if op.kind == "wpool" and op.window is not None:
        kh, kw, sh, sw = op.window
        window = min(kh, x.shape[2]), min(kw, x.shape[3])  # a window larger than the map is the map
        return functional.avg_pool2d(x, window, (sh, sw))
    if op.kind == "apool":
        return functional.adaptive_avg_pool2d(x, (op.hout, op.wout))
    if op.kind == "resize":
        size = image if op.like == IMAGE else tuple(at[op.like].shape[2:])
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=op.align)
    if op.kind == "concat":
        return torch.cat((x, *more), 1)
    return x + more[0] if op.kind == "add" else x * more[0]


class FarConv(nn.Conv2d):
    """A strided convolution under TensorFlow's SAME, for images of any size."""

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            far_pads(x.shape[2 + i], self.kernel_size[i], self.stride[i], self.dilation[i]) for i in (0, 1)
        )
        return super().forward(functional.pad(x, (left, right, top, bottom)))


class OpsNet(nn.Module):
    """Convolutions and batch norms of `ops`, under their names without `prefix`; `linear`: 1x1 convolutions as fully
    connected layers."""

    def __init__(self, ops: Iterable[Op], prefix: str, bn_eps: float, bn_momentum: float, linear: bool = False) -> None:
        super().__init__()
        self.prefix = f"{prefix}."
        self._by_name: dict[str, nn.Module] = {}
        for op in ops:
            if op.kind != "conv":
                continue
            pad = 0 if op.far else op.dilation * (op.k - 1) // 2
            kind = FarConv if op.far else nn.Conv2d
            bias = op.bn is None and op.bias
            self._put(
                op.name,
                nn.Linear(op.cin, op.cout, bias)
                if linear
                else kind(op.cin, op.cout, op.k, op.s, pad, op.dilation, op.groups, bias),
            )
            if op.bn is not None:
                self._put(op.bn, nn.BatchNorm2d(op.cout, eps=bn_eps, momentum=bn_momentum))

    def _put(self, name: str, module: nn.Module) -> None:
        *folders, last = name.removeprefix(self.prefix).split(".")
        place: nn.Module = self
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.add_module(last, module)
        self._by_name[name] = module

    def module(self, name: str) -> nn.Module:
        """A convolution or a batch norm by the name in its op."""
        return self._by_name[name]

    def convolved(self, op: Op, x: Tensor) -> Tensor:
        """A convolution and the batch norm that follows it."""
        y: Tensor = self._by_name[op.name](x)
        if op.bn is not None:
            y = self._by_name[op.bn](y)
        return y
