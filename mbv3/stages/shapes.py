"""Input sizes and strides for a user's images: a few are compared at equal milliseconds by short trainings."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from mbv3.accuracy import imagenet
from mbv3.events import Event, Note
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, load_spec, scale_spec
from mbv3.stages.budget import Budget
from mbv3.stages.contenders import Contender
from mbv3.stages.halving import Halving
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.rounds import decided
from mbv3.stages.scale import LatencyMs
from mbv3.stages.sizes import FINE
from mbv3.tasks import strides_removed, without_strides

__all__ = ["Shape", "choose_shape", "fewer_strides", "likely_shapes", "natural", "probe", "shaped_as", "shapes_of"]

STAGE = "shapes"
PROBE = "mobilenet_v3_small"
VIEWS = (48, 64, 96, 128, 160, 192, 224, 256, 320)
ENLARGED = 1.5  # of the images: finer than that there is nothing to see, and strides are removed instead
MOST_STRIDES = 3  # removed
USUAL = 96  # px: a last map of 3x3
STEP = 0.05
WIDTHS = tuple(STEP * w for w in range(4, 61))
MOST = 4  # shapes that are compared
CORRECTED = 4  # times that a width is corrected by its ms


@dataclass(frozen=True, slots=True)
class Shape:
    """An input of `side` pixels for a network whose first `strides` strides are removed."""

    side: int
    strides: int = 0

    @property
    def view(self) -> int:
        """The side at which the network with all its strides has maps of the same size."""
        return self.side << self.strides

    def __str__(self) -> str:
        fewer = f", the first {self.strides} stride(s) removed" if self.strides else ""
        return f"{self.side} px{fewer}"


def shapes_of(photos_side: int) -> tuple[Shape, ...]:
    """Shapes for images whose short side is `photos_side`, one for each of VIEWS."""
    found = []
    for view in VIEWS:
        strides = max(0, math.ceil(math.log2(view / (ENLARGED * photos_side))))
        if strides <= MOST_STRIDES and view % 2**strides == 0:
            found.append(Shape(view >> strides, strides))
    return tuple(found) or (Shape(VIEWS[0] >> MOST_STRIDES, MOST_STRIDES),)


def natural(photos_side: int) -> Shape:
    """What anyone would take for images whose short side is `photos_side`: their own size, up to the 224 px of the
    published networks, and without as many strides as it takes for a view of USUAL at least."""
    side = max(16, min(photos_side, 224) // FINE * FINE)
    strides = next(n for n in range(MOST_STRIDES + 1) if side << n >= USUAL or n == MOST_STRIDES)
    return Shape(side, strides)


def shaped_as(spec: ArchSpec, shape: Shape, classes: int) -> ArchSpec:
    """`spec` for images of `classes` at a shape."""
    spec = without_strides(replace(spec, head=replace(spec.head, classes=classes)), shape.strides)
    return replace(spec, resolution=(shape.side, shape.side))


def fewer_strides(space: SearchSpace, strides: int) -> SearchSpace:
    """`space` with its first `strides` strides set to 1; its genomes stay what they are."""
    (stem, *blocks), _ = strides_removed([space.stem, *space.blocks], strides)
    return replace(space, stem=stem, blocks=tuple(blocks))


def probe(shape: Shape, spec: ArchSpec, ms: float) -> Contender:
    """A network that stands for a shape."""
    return Contender(f"shape-{shape.side}-{shape.strides}", "family", spec, None, ms, 0.0)


def likely_shapes(
    latency_ms: LatencyMs, first: Shape, shapes: Sequence[Shape], target_ms: float, classes: int, most: int = MOST
) -> list[tuple[Shape, Contender]]:
    """`first`, and of `shapes` those at which MobileNetV3-Small, as wide as `target_ms` allows, is predicted to be best
    on ImageNet pictures of that view, the best first; `most` in all. A shape at which no width comes near the target is
    left out. `latency_ms`: from a few runs, or predicted."""
    base, shapes = load_spec(PROBE), [first, *(s for s in shapes if s != first)]
    ms = latency_ms([shaped_as(base, s, classes) for s in shapes])
    # near width 1 the ms of a network grow with less than the square of the width
    wide = [min(max(math.sqrt(target_ms / t), WIDTHS[0]), WIDTHS[-1]) for t in ms]
    best: list[tuple[float, ArchSpec, float] | None] = [None] * len(shapes)
    for _ in range(CORRECTED):
        near = [min(WIDTHS, key=lambda w, aim=aim: abs(w - aim)) for aim in wide]  # type: ignore[misc]
        specs = [
            replace(shaped_as(scale_spec(base, w), s, classes), name=f"{PROBE}@{w:g}")
            for w, s in zip(near, shapes, strict=True)
        ]
        for i, (w, spec, t) in enumerate(zip(near, specs, latency_ms(specs), strict=True)):
            kept = best[i]
            if t <= target_ms and (kept is None or w > kept[0]):
                best[i] = w, spec, t
            aim = w * (target_ms / t) ** 0.7
            wide[i] = min(max(min(aim, w - STEP) if t > target_ms else aim, WIDTHS[0]), WIDTHS[-1])
    found = []
    for s, kept in zip(shapes, best, strict=True):
        if kept is None or kept[2] < 0.5 * target_ms:
            continue
        w, spec, t = kept
        worth = imagenet(scale_spec(base, w, (s.view, s.view)))
        found.append((worth.value, s, probe(s, spec, t)))
    return [(s, c) for _, s, c in sorted(found, key=lambda f: (f[1] != first, -f[0]))[:most]]


def choose_shape(
    likely: Sequence[tuple[Shape, Contender]],
    images: Images,
    *,
    steps: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, Shape]:
    """The first of the shapes of `likely_shapes`, or the one at which its network learns `images` better: they are
    halved after rounds of equal seconds, and a lead must hold (`rounds.lead`). `steps` of the first round by hand."""
    budget, keep = budget or Budget(60.0), keep or Memory()
    halving = Halving(images, "shapes.csv", budget, "shapes", steps, seed, keep, STAGE)
    rounds = yield from halving.run([c for _, c in likely])
    shape, why = likely[0][0], "no other is likely at this target"
    if len(likely) > 1:
        why = f"as is usual; the time is too short to compare {len(likely)} shapes on the images"
    if rounds:
        best = decided(rounds, likely[0][1], images.work.metric, halving.horizon(len(rounds[0])))[0][0]
        shape = next(s for s, c in likely if c.name == best.name)
        why = f"{best.spec.name} learns better there" if shape != likely[0][0] else "as is usual; no other is better"
        why += f", of {len(rounds[0])} shapes"
    yield Note(STAGE, f"{shape}: {why}")
    return shape
