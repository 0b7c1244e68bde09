"""A study as several searches see it: which networks have a score, which are at work, and which were lost."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mbv3.errors import BadInput, Mbv3Error, plain, shown
from mbv3.search.database import Ended
from mbv3.search.optuna_sampler import directions, distributions, genome_of, quiet
from mbv3.search.storage import begin, end, first_line
from mbv3.space import Genome, SearchSpace

__all__ = [
    "ABOUT",
    "DOUBLE",
    "EXHAUSTED",
    "FAILED",
    "JOB",
    "MOST_TRIES",
    "RETURNED",
    "REWARD",
    "SAMPLER",
    "Entry",
    "Offered",
    "StudyBook",
    "View",
    "check_study",
    "join_study",
    "offered",
    "scored",
]  # fmt: skip

T = TypeVar("T")
# user attributes of a study: what must be equal for all who work on it, what a worker must know, and that it is at its
# end though it has fewer trials than were asked for
ABOUT, JOB, EXHAUSTED = "mbv3", "mbv3:job", "mbv3:exhausted"
BEAT = "mbv3:beat"  # system attribute of a trial at work: it counts up while its worker lives
# user attributes of a trial
WORKER, GENOME, REWARD, SAMPLER = "worker", "genome", "reward", "sampler_state"
FAILED, DOUBLE, RETURNED = "failed", "double", "returned"  # of one that ended without values: why
MOST_TRIES = 3  # times that a network is begun whose workers end before it does


@dataclass(frozen=True, slots=True)
class Entry:
    """A network of a study: at work where `ended` is False."""

    trial_id: int
    genome: Genome
    ended: bool
    trial: FrozenTrial


@dataclass(frozen=True, slots=True)
class View:
    """`live`: networks with a score or at work, each once, in the order in which they were begun. `lost`: those whose
    workers ended before they did, with how often; they are begun again."""

    live: tuple[Entry, ...]
    lost: Mapping[Genome, int]
    silent: tuple[Entry, ...] = ()  # at work, by workers that gave no sign of life for long
    trials: int = 0  # of the study, of whatever kind

    @property
    def ended(self) -> int:
        return sum(e.ended for e in self.live)

    @property
    def running(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.live if not e.ended)

    @property
    def before_the_first_running(self) -> tuple[Entry, ...]:
        """What has ended before everything that is at work: it stays as it is, so samplers learn from it."""
        for i, e in enumerate(self.live):
            if not e.ended:
                return self.live[:i]
        return self.live


def join_study(storage: BaseStorage, name: str, about: Mapping[str, Any], where: str) -> optuna.Study:
    """The study `name`, made where there is none. `about`: what must be equal for all who work on it. `where`: the
    storage in a message. Objectives are accuracy in percent and latency in ms.

    Raises:
        BadInput: a study of that name was written by another search.
    """
    quiet()
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions(True), load_if_exists=True)
    theirs = study.user_attrs.get(ABOUT)
    if theirs is None:
        if len(study.directions) != 2 or study.get_trials(deepcopy=False):
            raise BadInput(f"{where}: its study {plain(name)} is not one of mbv3; give another --study")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls the names experimental
            study.set_metric_names(["accuracy", "latency_ms"])
        study.set_user_attr(ABOUT, dict(about))
        return study
    _check_equal(theirs, about, name, where)
    return study


def check_study(storage: BaseStorage, name: str, known: Mapping[str, Any], where: str) -> None:
    """`known`: what a search knows, before it begins, of what must be equal. Raises: BadInput: likewise."""
    quiet()
    try:
        theirs = optuna.load_study(study_name=name, storage=storage).user_attrs.get(ABOUT)
    except KeyError:
        return
    if theirs is not None:
        _check_equal(theirs, known, name, where)


def _check_equal(theirs: Any, own: Mapping[str, Any], name: str, where: str) -> None:
    differ = [key for key in own if not isinstance(theirs, dict) or theirs.get(key) != own[key]]
    if differ:
        key = differ[0]
        got = theirs.get(key) if isinstance(theirs, dict) else theirs
        also = f", also {', '.join(differ[1:])}" if differ[1:] else ""
        raise BadInput(
            f"{where}: its study {plain(name)} was written by a search with another {key} ({shown(got)}, here "
            f"{shown(own[key])}{also}); nothing was changed in it. Give another --study, or go on with that search"
        )


class StudyBook:
    """Reads and writes the networks of a study. `worker`: a name of this process alone. A worker that gives no sign of
    life for `grace_s` seconds has lost its networks; signs are counted, so clocks of machines are never compared. A
    storage that cannot be reached is tried again for `patience_s`."""

    def __init__(
        self, study: optuna.Study, space: SearchSpace, worker: str, where: str, *, grace_s: float = 60.0,
        patience_s: float = 300.0, gone: Callable[[str], bool] = lambda worker: False,
    ) -> None:  # fmt: skip
        self.study, self.space, self.worker, self.where = study, space, worker, where
        self.grace_s, self.patience_s, self._gone = grace_s, patience_s, gone
        self._storage: BaseStorage = study._storage
        self._distributions = distributions(space)
        self._genomes: dict[int, Genome | None] = {}
        self._signs: dict[int, tuple[Any, float]] = {}  # of others' trials: the last sign, when it was first seen

    # -- read

    def read(self) -> View:
        """What the study holds now."""
        trials = self._patiently(lambda: self.study.get_trials(deepcopy=False))
        live: dict[Genome, Entry] = {}
        tries: Counter[Genome] = Counter()
        silent: list[Entry] = []
        now = time.monotonic()
        for t in trials:
            genome = self._genome(t)
            if genome is None or t.state == TrialState.WAITING:
                continue
            scored = t.state == TrialState.COMPLETE or FAILED in t.user_attrs
            if t.state.is_finished() and not scored:
                if DOUBLE not in t.user_attrs:
                    tries[genome] += RETURNED not in t.user_attrs
                continue
            entry = Entry(t._trial_id, genome, scored, t)
            if not scored and self._is_silent(t, now):
                silent.append(entry)
            first = live.get(genome)
            if first is None or (scored and not first.ended):
                live[genome] = entry
        order = tuple(sorted(live.values(), key=lambda e: e.trial.number))
        return View(order, {g: n for g, n in tries.items() if g not in live}, tuple(silent), len(trials))

    def _genome(self, t: FrozenTrial) -> Genome | None:
        """None: of no network of this space, as someone else's trial."""
        if t._trial_id not in self._genomes:
            known = all(name in t.params for name in self.space.names)
            self._genomes[t._trial_id] = genome_of(self.space, t.params) if known else None
        return self._genomes[t._trial_id]

    def _is_silent(self, t: FrozenTrial, now: float) -> bool:
        owner = t.user_attrs.get(WORKER)
        if owner == self.worker:
            return False
        sign = t.system_attrs.get(BEAT)
        last, since = self._signs.get(t._trial_id, (None, now))
        if t._trial_id not in self._signs or last != sign:
            since = now
            self._signs[t._trial_id] = (sign, now)
        return now - since > self.grace_s or self._gone(str(owner))

    # -- write

    def offer(self, job: str) -> None:
        """Put what a worker must know into the study, where it is not yet."""
        if self._patiently(lambda: self.study.user_attrs.get(JOB)) is None:
            self._patiently(lambda: self.study.set_user_attr(JOB, job))

    def finish(self) -> None:
        """No network is left to propose."""
        self._patiently(lambda: self.study.set_user_attr(EXHAUSTED, True))

    def begin(self, genomes: Sequence[Genome], states: Mapping[Genome, str], limits: Callable[[Genome], list[float]]
              ) -> tuple[dict[int, Genome], int | None]:  # fmt: skip
        """Take `genomes` for this worker: (trial id: genome), and how many trials there were before (None: unknown).
        If they were more than a view has, another may have taken one at the same moment; `read` tells whose it is.
        `states`: what a sampler keeps on a trial. `limits`: above 0 for a network beyond one."""
        templates = []
        for g in genomes:
            attrs: dict[str, Any] = {WORKER: self.worker, GENOME: "-".join(map(str, g))}
            if states.get(g):
                attrs[SAMPLER] = states[g]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                t = create_trial(
                    state=TrialState.RUNNING, params=dict(zip(self.space.names, g, strict=True)),
                    distributions=self._distributions, user_attrs=attrs, system_attrs={"constraints": limits(g)},
                )  # fmt: skip
            t.datetime_start = datetime.now()
            templates.append(t)
        study_id = self.study._study_id
        ids, before = self._patiently(lambda: begin(self._storage, study_id, templates))
        found = dict(zip(ids, genomes, strict=True))
        self._genomes.update(found)
        return found, before

    def end(self, trials: Sequence[Ended]) -> list[int]:
        """End trials; ids of those that still ran."""
        return self._patiently(lambda: end(self._storage, trials)) if trials else []

    def beat(self, trial_id: int, count: int) -> None:
        """A sign of life for a network at work."""
        try:
            self._storage.set_trial_system_attr(trial_id, BEAT, count)
        except Exception as e:
            if not isinstance(e, optuna.exceptions.UpdateFinishedTrialError) and not _no_contact(e):
                raise

    def _patiently(self, call: Callable[[], T]) -> T:
        began, wait = time.monotonic(), 0.2
        while True:
            try:
                return call()
            except Exception as e:
                if not _no_contact(e):
                    raise
                if time.monotonic() - began > self.patience_s:
                    raise Mbv3Error(
                        f"{self.where}: could not be reached for {self.patience_s:.0f} s ({first_line(e)}); its trials "
                        "are as they were. Give the same command again when it can"
                    ) from None
                time.sleep(wait)
                wait = min(2 * wait, 5.0)


def _no_contact(error: BaseException) -> bool:
    """Whether a storage may answer later."""
    if isinstance(error, optuna.exceptions.UpdateFinishedTrialError):
        return False
    room = type(error).__module__.partition(".")[0]
    return room in ("sqlalchemy", "grpc", "psycopg") or isinstance(
        error, (OSError, optuna.exceptions.StorageInternalError)
    )


def scored(trial_id: int, accuracy: float, latency_ms: float, reward: float) -> Ended:
    """The end of a network with a score; where the reward is not finite, it failed."""
    if math.isfinite(reward) and math.isfinite(accuracy) and math.isfinite(latency_ms):
        return Ended(trial_id, (accuracy, latency_ms), {REWARD: reward})
    kept = accuracy if math.isfinite(accuracy) else None  # a browser cannot read NaN
    return Ended(trial_id, None, {FAILED: "its score is not a number", "accuracy": kept})


@dataclass(frozen=True, slots=True)
class Offered:
    """A study of mbv3 in a storage: its name, what it compares, what a worker must know, networks with a score."""

    name: str
    about: Mapping[str, Any]
    job: str
    ended: int
    exhausted: bool

    @property
    def finished(self) -> bool:
        return self.exhausted or self.ended >= int(self.about.get("trials", 0))


def offered(storage: BaseStorage) -> list[Offered]:
    """The studies of mbv3 whose search takes workers, oldest first."""
    found = []
    for s in sorted(storage.get_all_studies(), key=lambda s: s._study_id):
        if isinstance(s.user_attrs.get(ABOUT), dict) and isinstance(s.user_attrs.get(JOB), str):
            trials = storage.get_all_trials(s._study_id, deepcopy=False)
            ended = sum(t.state == TrialState.COMPLETE or FAILED in t.user_attrs for t in trials)
            found.append(
                Offered(s.study_name, s.user_attrs[ABOUT], s.user_attrs[JOB], ended, EXHAUSTED in s.user_attrs)
            )
    return found
