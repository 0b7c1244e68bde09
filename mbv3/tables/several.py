"""One latency of several devices: the worst of them, or a weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mbv3.errors import BadInput, shown
from mbv3.latency import LatencyTable
from mbv3.spec import ArchSpec
from mbv3.tables.predict import Latency

__all__ = ["SeveralLatency", "one_space"]

_SPACE = ("space", "space_id", "width", "resolution", "classes", "head")  # of what a table says about itself


class SeveralLatency(Latency):
    """Predicted ms of networks that run on several devices, none at hand: the largest of the devices', or with
    `weights` (positive, one a device) their weighted mean. `table` is that of the first device."""

    def __init__(
        self,
        tables: Sequence[LatencyTable],
        weights: Sequence[float] | None = None,
        dress: Callable[[ArchSpec], ArchSpec] = lambda spec: spec,
    ) -> None:
        super().__init__(tables[0], None, dress)
        self.devices = tuple(Latency(table, None, dress) for table in tables)
        total = sum(weights or ())
        self.weights = None if weights is None else tuple(w / total for w in weights)

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return [
            self.of(each) * self.correction for each in zip(*(device(specs) for device in self.devices), strict=True)
        ]

    def of(self, each_ms: Sequence[float]) -> float:
        """What counts of the ms on each device."""
        if self.weights is None:
            return max(each_ms)
        return sum(w * ms for w, ms in zip(self.weights, each_ms, strict=True))

    def rough(self, correction: float | None = None) -> SeveralLatency:
        rough = SeveralLatency([device.table for device in self.devices], self.weights, self.dress)
        rough.correction = self.correction if correction is None else correction
        return rough


def one_space(names: Sequence[str], tables: Sequence[LatencyTable]) -> None:
    """Whether tables hold one space; a profile, which predicts any layer, holds every space.

    Raises:
        BadInput: the first difference between two of them.
    """
    first: tuple[str, dict[str, object]] | None = None
    for name, table in zip(names, tables, strict=True):
        if table.model is not None:
            continue
        about = {k: v for k, v in dict(table.about or {}).items() if k in _SPACE}
        if first is None:
            first = name, about
            continue
        for what in _SPACE:
            mine, theirs = first[1].get(what), about.get(what)
            if mine != theirs:
                said = (
                    "the blocks of the space differ"
                    if what == "space_id"
                    else (f"{what} is {shown(mine)} in {first[0]} and {shown(theirs)} in {name}")
                )
                raise BadInput(
                    f"--device {','.join(names)}: the tables hold different spaces: {said}; build them for one space "
                    "and scale (mbv3 latency build --space NAME --scale S)"
                )
