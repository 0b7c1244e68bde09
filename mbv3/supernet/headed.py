"""Shared weights under a head that taps the backbone: segmentation heads and detectors."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from mbv3.nn import HeadNet, Maps, build
from mbv3.space import Genome, SearchSpace
from mbv3.spec import lower
from mbv3.supernet.model import Supernet, run_layer, slice_of

__all__ = ["HeadedSupernet", "supernet_of"]


def supernet_of(space: SearchSpace, seed: int = 0) -> Supernet:
    """Shared weights over `space`, under the head that its networks are deployed with. Raises: BadInput."""
    return Supernet(space, seed) if space.dense is None else HeadedSupernet(space, seed)


class HeadedSupernet(Supernet):
    """`Supernet` of a space with a dense head: the head is that of the largest network, and reads as many channels of
    what it taps as a path has there. (N, 3, H, W) to what a network of the space gives."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__(space, seed)
        whole = build(space.dress(self.largest), seed)
        assert isinstance(whole.head, HeadNet)
        self.head = whole.head
        self.aux = whole.aux  # untrained: a path has no auxiliary loss

    def extract(self, genome: Genome) -> dict[str, Tensor]:
        backbone = {k: v for k, v in super().extract(genome).items() if not k.startswith("head.")}
        whole = dict(self.state_dict())
        own = build(self.space.deployed(genome, "subnet")).state_dict()
        heads = {k: slice_of(whole[k], tuple(v.shape)).clone() for k, v in own.items() if k not in backbone}
        return {k: backbone[k] if k in backbone else heads[k] for k in own}

    def forward_path(self, genome: Genome, x: Tensor) -> Tensor:
        *layers, head = lower(self.space.deployed(genome))
        image, tapped = (x.shape[2], x.shape[3]), set(head.inputs)
        at = {layers[0].inputs[0]: x}
        donors = iter(self.rows_of(genome))
        for layer in layers:
            row = layer.path.startswith("rows[")
            module = self.net.rows[next(donors)] if row else self.net.get_submodule(layer.path)
            run_layer(module, layer, at, "batch", image)
            at = {name: t for name, t in at.items() if name in tapped or name == layer.outputs[0]}
        run_layer(self.head, head, at, "batch", image, self.head.dropout)
        outputs = tuple(at[name] for name in head.outputs)
        half = len(outputs) // 2
        return cast(Tensor, outputs[0] if len(outputs) == 1 else Maps(outputs[:half], outputs[half:]))
