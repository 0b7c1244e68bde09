"""What may be delivered at a target: the network cut at several resolutions, and what anyone could take instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from torch import Tensor

from mbv3.errors import Unreachable
from mbv3.events import Event, Note
from mbv3.spec import ArchSpec, Site, dump_spec, parse_spec, pixels
from mbv3.stages.curve import CURVE
from mbv3.stages.engines import Joint
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep
from mbv3.stages.shrink import shrink
from mbv3.stages.sizes import Sizes, largest_within
from mbv3.stages.slim import cut_by_l1, slimmed
from mbv3.stages.tune import Tuned, on_device
from mbv3.tables import AIM, Latency, Whole
from mbv3.training import load_checkpoint, save_checkpoint

__all__ = ["Contender", "Kind", "baseline_l1", "baseline_lower", "cut_contender", "cut_rounds", "kept_contender",
           "start_itself"]  # fmt: skip

STAGE = "candidates"
T = TypeVar("T")
Kind = Literal["cut", "found", "subnet", "plain", "lower", "l1", "family", "random"]
# share of its ms that a cut leaves at least, to rounds of cuts: the candidates learn afterwards, so few rounds do
ROUNDS = ((0.4, 1), (0.2, 2), (0.0, 3))
TRIES = 3  # measurements of a slimmed network, each nearer to the target


@dataclass(frozen=True, eq=False)
class Contender:
    """A network within the target and its inherited weights (None: it begins from scratch). `ms`: measured where the
    device is at hand, else predicted; `error_ms` is its standard error."""

    name: str
    kind: Kind
    spec: ArchSpec
    state: dict[str, Tensor] | None
    ms: float
    error_ms: float

    @property
    def own(self) -> bool:
        """It is the work of the search; the others are what anyone could take."""
        return self.kind in ("cut", "found", "subnet", "plain")

    @property
    def called(self) -> str:
        """What it is, for a reader."""
        at = f"{pixels(self.spec.resolution)} px, {self.ms:.3f} ms"
        what = {
            "cut": "cut", "found": "the found network", "subnet": "a network of the supernet",
            "lower": "the start uncut", "l1": "uniform L1 slimming",
            "plain": self.spec.name, "family": self.spec.name, "random": "a random network",
        }[self.kind]  # fmt: skip
        return f"{what} at {at}"


def kept_contender(
    keep: Keep, name: str, kind: Kind, make: Callable[[], Generator[Event, None, Contender | None]]
) -> Generator[Event, None, Contender | None]:
    """What `make()` gave the first time, also after a resume. None: there is none within the target."""
    file = keep.file(f"road-{name}-cut.safetensors")
    kept = load_checkpoint(file) if file is not None else None
    if kept is not None:
        parts, meta = kept
        if not meta["spec"]:
            return None
        spec = parse_spec(meta["spec"], str(file))
        return Contender(name, kind, spec, parts["net"], float(meta["ms"]), float(meta["error_ms"]))
    made = yield from make()
    if file is not None:
        state: Mapping[str, Tensor] = made.state or {} if made else {}
        about = {"spec": dump_spec(made.spec), "ms": made.ms, "error_ms": made.error_ms} if made else {"spec": ""}
        save_checkpoint(file, {"net": state}, about)
    return made


def baseline_lower(
    sizes: Sizes, state: Mapping[str, Tensor], latency: Latency, target_ms: float
) -> Generator[Event, None, Contender | None]:
    """The start uncut at the largest resolution within the target."""
    found = largest_within(sizes.lower, target_ms, latency)
    if found is None:
        return None
    spec, ms, error = found
    yield Note(STAGE, f"uncut at {pixels(spec.resolution)} px: {ms:.3f} ms")
    return Contender("lower", "lower", spec, dict(state), ms, error)


def start_itself(
    sizes: Sizes, state: Mapping[str, Tensor], latency: Latency, target_ms: float, lower: Contender | None
) -> Generator[Event, None, Contender | None]:
    """The start as it is, where that meets the target and the resolution could be raised: it need not pay."""
    if lower is None or min(lower.spec.resolution) <= min(sizes.start.resolution):
        return None
    found = largest_within([sizes.start], target_ms, latency)
    if found is None:
        return None
    spec, ms, error = found
    yield Note(STAGE, f"the start itself, at {pixels(spec.resolution)} px: {ms:.3f} ms")
    return Contender("start-itself", "lower", spec, dict(state), ms, error)


def cut_rounds(target_ms: float, ms: float) -> int:
    """Rounds of cuts from `ms` to the target."""
    return next(n for share, n in ROUNDS if target_ms / ms >= share)


def cut_contender(
    spec: ArchSpec, start: Tuned, latency: Latency, images: Images, target_ms: float, steps: int, seed: int,
    keep: Keep, some: Collection[Site] | None = None, measured_s: float = math.inf,
) -> Generator[Event, None, Contender | None]:  # fmt: skip
    """The fine-tuned start cut to the target at the resolution of `spec`; None where no cut leads there. Its record and
    what a resume needs lie in a folder of their own. `some`: the sites that may be cut. `measured_s`: as `shrink` has
    it."""
    name = f"cut-{pixels(spec.resolution)}"
    rounds = cut_rounds(target_ms, latency([spec])[0])
    teacher = on_device(start.spec, start.state).eval() if images.work.taught else None
    try:
        adapted = yield from shrink(
            spec, latency, replace(images, size=spec.resolution), target_ms, weights=start.state, steps=steps,
            seed=seed, keep=Under(keep, name), some=some, teacher=teacher, engine=Joint(rounds=rounds),
            measured_s=measured_s,
        )  # fmt: skip
    except Unreachable as e:
        yield Note(STAGE, str(e))
        return None
    if not adapted.reached:
        yield Note(STAGE, f"no cut leads to {target_ms:g} ms at {pixels(spec.resolution)} px: {adapted.ms:.3f} ms")
        return None
    assert adapted.state is not None
    error = adapted.verdict.error_ms if adapted.verdict is not None else 0.0
    return Contender(name, "cut", adapted.spec, adapted.state, adapted.ms, error)


@dataclass(frozen=True, slots=True)
class Under:
    """A `Keep` in a folder of another one; the latency table is shared. Networks on the way keep no weights: what is
    cut here is one of several candidates, and another target cuts the start again."""

    keep: Keep
    folder: str

    def _name(self, name: str) -> str:
        return name if name == "latency-table.csv" else f"{self.folder}/{name}"

    def value(self, name: str, decide: Callable[[], T]) -> T:
        return self.keep.value(f"{self.folder}: {name}", decide)

    def file(self, name: str) -> Path | None:
        weights = name.startswith(f"{CURVE}/") and name.endswith(".safetensors")
        return None if weights else self.keep.file(self._name(name))

    def rows(self, name: str) -> list[dict[str, str]]:
        return self.keep.rows(self._name(name))

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        self.keep.write_rows(self._name(name), columns, rows)

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        self.keep.append_rows(self._name(name), columns, rows)

    def text(self, name: str, content: str) -> None:
        self.keep.text(self._name(name), content)

    def note(self, text: str) -> None:
        self.keep.note(text)


def baseline_l1(
    spec: ArchSpec, state: Mapping[str, Tensor], latency: Latency, target_ms: float,
    some: Collection[Site] | None = None,
) -> Generator[Event, None, Contender | None]:  # fmt: skip
    """`spec` slimmed by one factor at all sites or `some`, filters of largest L1 norm kept."""
    aim = target_ms * (AIM if latency.device is not None else 1.0)
    best: tuple[ArchSpec, Whole] | None = None
    for _ in range(TRIES):
        small = slimmed(spec, latency, aim, some)
        if small is None:
            return None
        whole = latency.measure(small, 4)
        if whole is None:
            return Contender("l1", "l1", small, cut_by_l1(state, spec, small), latency([small])[0], 0.0)
        if whole.ms <= target_ms and (best is None or whole.ms > best[1].ms):
            best = small, whole
        if 0.97 * target_ms <= whole.ms <= target_ms:
            break
        aim *= AIM * target_ms / whole.ms
    if best is None:
        return None
    small, whole = best
    yield Note(STAGE, f"slimmed alike at {pixels(small.resolution)} px: {whole.ms:.3f} ms")
    return Contender("l1", "l1", small, cut_by_l1(state, spec, small), whole.ms, whole.error_ms)
