"""The one walk from a network to its ops.

`lower(spec)` yields layers; a layer is one row with its input shape (the unit of the latency table) and the
ops it consists of. MAdds, parameters, table keys and every exported graph come from this walk, so they cannot
disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from mbv3.spec.arch import ArchSpec
from mbv3.spec.classify import Classify
from mbv3.spec.head_ops import walk_head
from mbv3.spec.heads import Dense, SSDLite, Tap, aux_of, taps_of
from mbv3.spec.keys import LayerKey
from mbv3.spec.kinds import Row
from mbv3.spec.ops import IMAGE, Op, Tensor, Walk

__all__ = ["Layer", "keys_of", "lower", "lower_aux", "lower_key", "tapped"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of a network with its ops. Shapes are (C, H, W) of batch 1; `inputs` and `outputs` are names of
    tensors."""

    path: str
    key: LayerKey
    ops: tuple[Op, ...]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def madds(self) -> int:
        return sum(op.madds for op in self.ops)

    @property
    def params(self) -> int:
        return sum(op.params for op in self.ops)


def _lower(key: LayerKey, prefix: str, path: str, sources: list[Tensor]) -> Layer:
    row, source = key.row, sources[0]
    x = Walk(prefix, source)
    outputs: tuple[str, ...] = ()
    if isinstance(row, Dense):
        image = Tensor(IMAGE, 0, *key.image) if key.image is not None else None
        outputs = walk_head(x, row, sources, image)
    elif isinstance(row, Classify):
        row.walk(x)
    else:
        row.walk(x, key.gate)
    return Layer(
        path, key, tuple(x.ops), source[1:], x.here[1:], tuple(s.name for s in sources), outputs or (x.tensor,)
    )


def tapped(layers: dict[str, Layer], tap: Tap, prefix: str | None = None) -> Tensor:
    """The tensor that a tap names; `layers` of a backbone by path. `prefix`: of the names of all their ops, where it is
    not that of the path."""
    path = f"rows[{tap.row}]" if isinstance(tap.row, int) else tap.row
    ops = layers[path].ops
    if tap.point != "out":
        prefix = path.replace("[", ".").removesuffix("]") if prefix is None else prefix
        ops = tuple(op for op in ops if op.name.startswith(f"{prefix}.{tap.point}."))
    op = ops[-1]
    return Tensor(op.output, op.cout, op.hout, op.wout)


def _far(layer: Layer) -> Layer:
    """The layer with TensorFlow's padding: at stride 1 it is the same as on both sides."""
    return replace(
        layer, ops=tuple(replace(op, far=True) if op.kind == "conv" and op.s > 1 else op for op in layer.ops)
    )


def _parts(spec: ArchSpec) -> Iterator[tuple[str, Row]]:
    yield "stem", spec.stem
    yield from ((f"rows[{i}]", row) for i, row in enumerate(spec.rows))
    if spec.tail is not None:
        yield "tail", spec.tail


def _backbone(spec: ArchSpec) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    here = Tensor("input", spec.in_channels, *spec.resolution)
    for path, row in _parts(spec):
        prefix = path.replace("[", ".").removesuffix("]")
        layer = _lower(LayerKey(row, here.c, here.h, here.w, spec.gate), prefix, path, [here])
        layers[path] = layer if spec.padding == "both" else _far(layer)
        here = Tensor(layers[path].outputs[0], *layers[path].out_shape)
    return layers


def _head(spec: ArchSpec, head: Dense, layers: dict[str, Layer], prefix: str) -> Layer:
    sources = [tapped(layers, tap) for _, tap in taps_of(head)]
    return _lower(_head_key(spec, head, sources), prefix, prefix, sources)


def _head_key(spec: ArchSpec, head: Dense, sources: Sequence[Tensor]) -> LayerKey:
    (c, h, w), *more = (source[1:] for source in sources)
    image = None if isinstance(head, SSDLite) else spec.resolution
    return LayerKey(head, c, h, w, more=tuple(more), image=image)


def lower(spec: ArchSpec) -> tuple[Layer, ...]:
    """The layers of `spec` in order: stem, rows, tail, head. The input tensor is `input`."""
    layers = _backbone(spec)
    if isinstance(spec.head, Dense):
        layers["head"] = _head(spec, spec.head, layers, "head")
    else:
        last = list(layers.values())[-1]
        source = Tensor(last.outputs[0], *last.out_shape)
        layers["head"] = _lower(LayerKey(spec.head, source.c, source.h, source.w, spec.gate), "head", "head", [source])
    return tuple(layers.values())


def lower_aux(spec: ArchSpec) -> Layer | None:
    """The auxiliary head, which is trained and not deployed; None where there is none."""
    aux = aux_of(spec.head)
    return None if aux is None else _head(spec, aux, _backbone(spec), "aux")


def keys_of(spec: ArchSpec) -> list[LayerKey]:
    """The keys of `lower(spec)`. Every layer is lowered once in a process: of many networks that share most of them
    the keys cost little."""
    keys: list[LayerKey] = []
    layers: dict[str, Layer] = {}
    c, (h, w) = spec.in_channels, spec.resolution
    for path, row in _parts(spec):
        keys.append(LayerKey(row, c, h, w, spec.gate))
        layers[path] = lower_key(keys[-1])
        c, h, w = layers[path].out_shape
    if isinstance(spec.head, Dense):
        sources = [tapped(layers, tap, "layer") for _, tap in taps_of(spec.head)]
        return [*keys, _head_key(spec, spec.head, sources)]
    return [*keys, LayerKey(spec.head, c, h, w, spec.gate)]


@lru_cache(maxsize=65536)
def lower_key(key: LayerKey) -> Layer:
    """A layer on its own, as the latency table times it; its inputs are `input`, `input1`, `input2` ..."""
    sources = [Tensor(f"input{i or ''}", *shape) for i, shape in enumerate(key.inputs)]
    return _lower(key, "layer", "layer", sources)
