"""`mbv3 supernet check RUN`: how well the shared weights of a run rank."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mbv3.errors import BadInput
from mbv3.events import Event, StageStart
from mbv3.files import write_atomic
from mbv3.latency import LatencyTable
from mbv3.progress import drain
from mbv3.record import Ranking, SearchRecord
from mbv3.runs.declare import there
from mbv3.runs.on_images import own_shape, photos_of
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE, kept_space, table_name
from mbv3.runs.rundir import RunDir
from mbv3.space import SearchSpace
from mbv3.stages import CHECKED, FEWEST, Images, Memory, check_ranking, near_target, shared_scorer, space_latency
from mbv3.supernet import Supernet
from mbv3.tables import Latency, SeveralLatency
from mbv3.training import load_checkpoint

__all__ = ["check_supernet", "check_supernet_events"]

T = TypeVar("T")
WEIGHTS, FOLDER = "supernet.safetensors", "supernet-check"
MINUTES, MOST = 10.0, 200
LEAST_IMAGES = 2  # to learn from, and to score on, a class


@dataclass
class _Folder(Memory):
    """Keeps what a check needs to go on, in a folder of the run."""

    path: Path = field(default_factory=Path)

    def value(self, name: str, decide: Callable[[], T]) -> T:
        kept = self.path / f"{name}.json"
        if not kept.exists():
            write_atomic(kept, json.dumps(decide()).encode())
        value: T = json.loads(kept.read_text("utf-8"))
        return value

    def file(self, name: str) -> Path | None:
        return self.path / name


def check_supernet(path: str | Path, **options: Any) -> Ranking:
    """How well the shared weights of the run directory `path` rank; the options are those of `check_supernet_events`.
    Shows progress on a terminal and in a notebook."""
    return drain(check_supernet_events(path, **options))


def check_supernet_events(
    path: str | Path, *, networks: int = CHECKED, steps: int | None = None, minutes: float = MINUTES,
    data: str | None = None, test: str | None = None,
) -> Generator[Event, None, Ranking]:  # fmt: skip
    """Train `networks` of the run's space near its target alone, for `steps` each or so long that all take `minutes`,
    and compare their order with that of the shared weights' scores. What was interrupted goes on. `data`, `test`: where
    the run's images are now.

    Raises:
        BadInput: no run with shared weights, its files were changed, or too few networks, minutes or images.
    """
    for flag, value, low, high in (("--networks", networks, FEWEST, MOST), ("--steps", steps, 1, 10**7)):
        if value is not None and not low <= value <= high:
            raise BadInput(f"{flag}: must be from {low} to {high} (got {value})")
    if not 0 < minutes <= 100_000:
        raise BadInput(f"--minutes: must be above 0 and at most 100000 (got {minutes:g})")
    run, o = _opened(Path(path), {k: v for k, v in (("data", data), ("test", test)) if v is not None})
    there(o.as_dict(), run.path)
    shape, photos = yield from own_shape(o, run)
    space = yield from kept_space(o, run, shape)
    if photos is None:
        photos = yield from photos_of(o, run, space.resolution)
    images = replace(photos.images, size=space.resolution)
    _enough(images)
    scorer = shared_scorer(_weights(run.path / WEIGHTS, space, o.seed), images)
    genomes = near_target(
        space, space_latency(space, _latency(o, run, space)), o.target_ms, limits=o.limits.on(space), seed=o.seed
    )
    if len(genomes) < networks:
        raise BadInput(f"--networks: there are {len(genomes)} networks near {o.target_ms:g} ms (got {networks})")
    folder = run.path / FOLDER / (f"{networks}-{minutes:g}min" if steps is None else f"{networks}-{steps}steps")
    folder.mkdir(parents=True, exist_ok=True)
    yield StageStart("ranking", f"shared weights of {run.path}, {o.target_ms:g} ms")
    found = yield from check_ranking(
        scorer, [tuple(int(v) for v in g) for g in genomes], replace(images, held_out=scorer.held_out),
        networks=networks, steps=steps, seconds=60 * minutes, seed=o.seed, keep=_Folder(path=folder),
    )  # fmt: skip
    if found is None:
        raise BadInput(f"--minutes: too few to train {FEWEST} networks alone (got {minutes:g}); give more")
    return found


def _opened(path: Path, now: dict[str, Any]) -> tuple[RunDir[SearchRecord], Options]:
    """The run, which is not written to, and its options. Raises: BadInput."""
    run = RunDir(path, RunDir.open(path, SearchRecord).record, writes=False)
    try:
        o = Options.of({**run.record.args, **now})
    except TypeError as e:
        raise BadInput(f"{path / 'run.json'}: its args were edited ({e})") from None
    if o.data is None or o.accuracy_kind != "supernet" or o.supernet:
        raise BadInput(
            f"{path}: a run without shared weights of its own; they come with --data DIR --accuracy supernet"
        )
    if o.under_head:
        raise BadInput(
            f"{path}: how well shared weights rank is known of classifiers alone, and this run is of --task {o.task}"
        )
    if not (path / WEIGHTS).exists() or run.record.scale is None or not run.file(TABLE).exists():
        raise BadInput(
            f"{path}: its shared weights are not trained yet, or {WEIGHTS} was removed; go on with: "
            f"mbv3-search --resume {path}"
        )
    return run, o


def _weights(file: Path, space: SearchSpace, seed: int) -> Supernet:
    """The shared weights. Raises: BadInput."""
    found, supernet = load_checkpoint(file), Supernet(space, seed)
    shapes = {k: tuple(v.shape) for k, v in supernet.state_dict().items()}
    state = {} if found is None else found[0].get("net", {})
    if {k: tuple(v.shape) for k, v in state.items()} != shapes:
        raise BadInput(f"{file}: not the shared weights of space {space.name} as this run has it")
    supernet.load_state_dict(state)
    return supernet


def _latency(o: Options, run: RunDir[SearchRecord], space: SearchSpace) -> Latency:
    """The latencies of the run's tables; nothing is timed."""
    tables = [LatencyTable.load(run.file(table_name(i))) for i in range(max(1, len(o.devices)))]
    if len(tables) > 1:
        return SeveralLatency(tables, o.weights, space.dress)
    return Latency(tables[0], None, space.dress)


def _enough(images: Images) -> None:
    """Raise BadInput where there are too few images to learn or to score on."""
    classes = len(images.train.classes)
    for what, data in (("to learn from", images.train), ("to choose on", images.held_out)):
        if len(data) < LEAST_IMAGES * classes:
            raise BadInput(
                f"{len(data)} images of {classes} classes {what}: a ranking needs at least {LEAST_IMAGES * classes}"
            )
