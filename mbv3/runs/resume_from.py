"""--resume-from RUN: another target begins with what a run keeps, its networks on the way or its fine-tuned start."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event, Note
from mbv3.files import write_atomic
from mbv3.latency import LatencyTable, open_runtime
from mbv3.record import SearchRecord, TakenFrom, load_as
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.spec import ArchSpec, Site, dump_spec, parse_spec, smallest
from mbv3.stages import Passed, TakenUp, kept_as, nearest, passed_in, photos_sha256, taken_up
from mbv3.tables import Latency
from mbv3.training import checkpoint_meta

__all__ = [
    "Source", "check_source", "keep_curve", "keep_start", "open_source", "same_network", "take_start", "take_up",
    "taken_from", "taken_options", "within_reach",
]  # fmt: skip

# the fine-tuned start of a road: while the run is at work, and afterwards
START, KEPT_START = kept_as("start"), "start.safetensors"
BESIDE = (
    "target_ms",
    "resume_from",
    "data",
    "test",
    "init",
    "budget_minutes",
    "final_epochs",
)  # what a run may give anew
UNSURE = 0.05  # of an estimated time; a target that is nearer to the least is tried


@dataclass(frozen=True)
class Source:
    """A run that another target goes on from. `networks`: those on its way, the uncut one first; none of a road, whose
    `start` is taken."""

    path: Path
    record: SearchRecord
    spec: ArchSpec
    networks: tuple[Passed, ...]
    start: Path | None

    @property
    def road(self) -> bool:
        return self.start is not None


def open_source(run: str) -> Source:
    """The run directory `run` of --resume-from. Raises: BadInput: nothing in it can be gone on from."""
    path, flag = Path(run), f"--resume-from {run}"
    record = load_as(path, SearchRecord)
    if record.network is None:
        raise BadInput(f"{flag}: is of a search over a space; only runs of mbv3 netadapt --data and of mbv3-search "
                       "--init --from can be gone on from")  # fmt: skip
    if record.args.get("data") is None:
        raise BadInput(f"{flag}: holds no weights, for it had no images (--data); mbv3 netadapt without --data takes "
                       "seconds for another target")  # fmt: skip
    spec = parse_spec(record.network, f"{path / 'run.json'}: network")
    if record.init is not None:
        start = next((path / name for name in (KEPT_START, START) if (path / name).exists()), None)
        if start is None:
            raise BadInput(f"{flag}: keeps no fine-tuned start ({KEPT_START}): it did not come so far, or is of an "
                           "older version; begin anew")  # fmt: skip
        return Source(path, record, spec, (), start)
    networks = passed_in(path)
    if not networks or networks[0].step != 0:
        raise BadInput(f"{flag}: keeps no weights of the networks on its way (curve/000_*.safetensors): it did not "
                       "come so far, or is of an older version; begin anew")  # fmt: skip
    return Source(path, record, spec, networks, None)


def taken_options(source: Source, given: Mapping[str, Any]) -> Options:
    """The options of that run, with the target and whatever of `given` may differ. Raises: BadInput: others differ."""
    kept = Options.of({**source.record.args, "resume_from": None})
    mine = {k: v for k, v in given.items() if v is not None}
    o = Options.of({**kept.as_dict(), **mine})
    others = [k for k, v in kept.as_dict().items() if k not in BESIDE and getattr(o, k) != v]
    if others:
        flags = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in sorted(others))
        raise BadInput(f"--resume-from {source.path}: goes on under the options of that run; leave out {flags}, or "
                       "begin anew")  # fmt: skip
    return o


def same_network(source: Source, spec: ArchSpec | None) -> None:
    """Raises: BadInput: SPEC or --from is given beside --resume-from, and is another network."""
    if spec is not None and dump_spec(spec) != dump_spec(source.spec):
        raise BadInput(f"--resume-from {source.path}: is of the network {source.spec.name} (got {spec.name}, another); "
                       "leave that out")  # fmt: skip


def check_source(o: Options, source: Source) -> None:
    """Raises: BadInput: images, weights, networks or the device are not those of that run; all are named."""
    record, wrong = source.record, []
    if o.under_head:
        raise BadInput(f"--resume-from {source.path}: takes up runs on class folders (got one of --task {o.task}); "
                       "begin anew")  # fmt: skip
    assert o.data is not None
    data, test, init = Path(o.data), Path(o.test) if o.test else None, o.init
    where = f"those of {data}" + (f" and {test}" if test else "")
    wrong += _apart("images", record.hashes.get("data"), lambda: photos_sha256(data, test, o.seed), where)
    if record.init is not None and init is not None:
        wrong += _apart("weights", record.init.sha256, lambda: file_sha256(Path(init)), init)
    for name, sha256 in record.hashes.items():
        if name == KEPT_START or name.endswith("ms.safetensors"):
            wrong += _apart(name, sha256, partial(file_sha256, source.path / name), str(source.path / name))
    table = source.path / TABLE
    if not table.exists():
        wrong.append(f"{TABLE}: is not there")
    elif not o.estimate_only:
        here = open_runtime(o.runtime, o.threads).fingerprint
        differing = LatencyTable.load(table).fingerprint.differences(here)
        wrong += [f"{TABLE}: {name} was {then!r}, here {now!r}" for name, then, now in differing]
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong)
        raise BadInput(f"--resume-from {source.path}: what is here is not what that run was made with; restore it, or "
                       f"begin anew without --resume-from{lines}")  # fmt: skip


def _apart(what: str, then: str | None, now: Callable[[], str], where: str) -> list[str]:
    """A line where a SHA-256 is another one; none where that run did not come as far as to have it."""
    if then is None:
        return []
    try:
        found = now()
    except (OSError, BadInput) as e:
        why = str(e) if isinstance(e, BadInput) else f"{where} cannot be read ({e.strerror})"
        return [f"{what}: {why}"]
    return [] if found == then else [f"{what}: {where}, SHA-256 {found[:12]}, then {then[:12]}"]


def within_reach(o: Options, source: Source, some: Collection[Site] | None) -> None:
    """Raises: Unreachable: the uncut network of that run is within the target, or above it when cut at `some` sites,
    None for those of NetAdapt."""
    start = source.networks[0]
    latency = Latency(LatencyTable.load(source.path / TABLE))
    now, least = start.scored.latency_ms, latency([smallest(start.spec, some)])[0] * start.correction
    if now <= o.target_ms or least > (1 + UNSURE) * o.target_ms:
        raise Unreachable(
            f"a target of {o.target_ms:g} ms: from {source.path} one between {least:.3g} and {now:.3g} ms can be met: "
            f"uncut {source.spec.name} takes {now:.3g} ms, and cut to 8 channels wherever it may be cut {least:.3g} ms",
            least, now,
        )  # fmt: skip


def taken_from(o: Options, source: Source) -> TakenFrom:
    """What run.json says of it."""
    r = source.record
    about: dict[str, Any] = {
        "run": str(source.path.resolve()), "target_ms": r.target_ms, "total_s": r.total_s,
        "delivered_ms": r.predicted_ms if r.measured_ms is None else r.measured_ms,
        "delivered_accuracy": r.accuracy if r.spec else None,
    }  # fmt: skip
    if source.start is not None:
        meta = checkpoint_meta(source.start)
        return TakenFrom(file=source.start.name, sha256=file_sha256(source.start), steps=0, ms=r.seed_ms or 0.0,
                         accuracy=float(meta.get("top1", 0.0)), **about)  # fmt: skip
    at = nearest(source.networks, o.target_ms)
    assert at is not None
    return TakenFrom(file=str(at.file.relative_to(source.path)), sha256=file_sha256(at.file), steps=at.step,
                     ms=at.scored.latency_ms, accuracy=at.scored.accuracy, **about)  # fmt: skip


# ---- keeping -------------------------------------------------------------------------------------------------------


def keep_curve(run: RunDir[SearchRecord]) -> Generator[Event, None, None]:
    """The networks on the way are fingerprinted, and a line says what they are for."""
    files = [p.file for p in passed_in(run.path)]
    run.hash(**{str(f.relative_to(run.path)): file_sha256(f) for f in files})
    mb = sum(f.stat().st_size for f in files) / 1e6
    yield Note("netadapt", f"{run.path / 'curve'} keeps {len(files)} networks with their weights, {mb:.1f} MB; another "
               f"target goes on from them: mbv3 netadapt --resume-from {run.path} --target-ms T")  # fmt: skip


def keep_start(run: RunDir[SearchRecord]) -> Generator[Event, None, None]:
    """The fine-tuned start of a road, likewise; as a copy, for what a resumed run needs is removed at the very end."""
    place = run.file(KEPT_START)
    _copy(run.file(START), place)
    run.hash(**{KEPT_START: file_sha256(place)})
    mb = place.stat().st_size / 1e6
    yield Note("training", f"{place} is the fine-tuned start, {mb:.1f} MB; another target goes on from it: "
               f"--resume-from {run.path} --target-ms T")  # fmt: skip


# ---- taking --------------------------------------------------------------------------------------------------------


def take_start(run: RunDir[SearchRecord]) -> None:
    """Copy the fine-tuned start and the table of the other run, where `run` goes on from one."""
    taken = run.record.taken_from
    if taken is None or run.file(START).exists():
        return
    _copy(Path(taken.run) / TABLE, run.file(TABLE))
    _copy(Path(taken.run) / taken.file, run.file(START), taken.sha256)


def take_up(run: RunDir[SearchRecord], target_ms: float) -> TakenUp | None:
    """The network that `run` goes on from; the table and the specs before it are copied. None where it goes on from
    none, or did so already."""
    taken = run.record.taken_from
    if taken is None or run.file("netadapt.safetensors").exists():
        return None
    other = Path(taken.run)
    if not run.file(TABLE).exists():
        _copy(other / TABLE, run.file(TABLE))
    for file in sorted((other / "curve").glob("*_*ms.yaml")):
        if int(file.name.split("_")[0]) < taken.steps:
            run.text(f"curve/{file.name}", file.read_text("utf-8"))
    return taken_up(passed_in(other), target_ms, _rows(other / "netadapt.csv"), _rows(other / "cuts.csv"))


def _copy(source: Path, place: Path, sha256: str | None = None) -> None:
    """Raises: BadInput: `source` is gone or another one."""
    try:
        content = source.read_bytes()
    except OSError as e:
        raise BadInput(f"{source}: cannot be read ({e.strerror}); put the run that was gone on from back") from None
    write_atomic(place, content)
    if sha256 is not None and file_sha256(place) != sha256:
        place.unlink()
        raise BadInput(f"{source}: is not as it was when this run began; restore it, or begin anew")


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
