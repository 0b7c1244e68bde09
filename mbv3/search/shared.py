"""A search by several workers, on one machine or many, through a storage of Optuna's.

Every worker is a whole search: it reads the study, learns from what has ended, takes a network, scores it and writes
the score. There is no master. A sampler learns from the networks that ended before everything that is at work, in the
order in which they were begun, so what it knows is a function of its seed and that history, and a worker that joins
late knows what the others know. One worker alone scores what a search in memory scores.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from mbv3.search.aim import Aim, Genomes
from mbv3.search.database import Ended
from mbv3.search.optuna_sampler import OptunaSampler, quiet
from mbv3.search.proposer import Proposer
from mbv3.search.reward import Reward
from mbv3.search.samplers import make_sampler
from mbv3.search.storage import open_storage, storage_name
from mbv3.search.study import Trial
from mbv3.search.study_book import (
    DOUBLE,
    FAILED,
    MOST_TRIES,
    RETURNED,
    REWARD,
    SAMPLER,
    Entry,
    StudyBook,
    View,
    join_study,
    scored,
)
from mbv3.space import Genome, SearchSpace
from mbv3.spec import dump_spec

__all__ = ["SharedSearch", "Standing", "space_mark", "worker_name"]

_FLUSH_S = 0.5  # scores are written at the latest after this
_MOST_AT_ONCE = 64  # networks that a worker takes where scores cost nothing
_GOLDEN = (5**0.5 - 1) / 2
_POLL_S = 1.0  # between two looks at a study where there is nothing to take


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a study is: networks with a score, at work, and the best reward so far (NaN: none)."""

    ended: int
    running: int
    best: float


def worker_name() -> str:
    """A name for this process that no other has."""
    return f"{platform.node() or 'host'}-{os.getpid()}-{secrets.token_hex(3)}"


class SharedSearch:
    """Networks of a space, scored by everyone who opens the same study; no network is scored twice.

    `accuracy(genome)` in percent and `latency_ms(genome)` are the caller's; a method `latency_ms.many` scores many
    genomes (n, genes). `storage`: an open one, or what `open_storage` takes; `name`: of the study. `about`: what must
    be equal for all who work on it, beside the space, the sampler, its seed and `trials`. `place`: of this worker among
    those that begin together; 0 proposes what a search in memory does. `beat_s`: between two signs of life;
    `grace_s`: without one for so long a worker's networks are begun again; `gone(worker)`: whether a worker is known to
    have ended. The other arguments are those of Search.

    `trials` has, in the order in which they were begun, the networks that ended before everything that is at work: all
    when `run` is at its end. `exhausted` is set where no network is left to propose.

    Raises:
        BadInput: a storage that cannot be reached, a study of another search, an unknown sampler.
    """

    def __init__(
        self,
        space: SearchSpace,
        accuracy: Callable[[Genome], float],
        latency_ms: Callable[[Genome], float],
        reward: Reward,
        *,
        storage: str | BaseStorage,
        name: str = "mbv3-search",
        about: Mapping[str, Any] | None = None,
        sampler: str | BaseSampler | Proposer = "rnn",
        seed: int = 0,
        target_ms: float | None = None,
        hard: bool = False,
        trials: int = 1000,
        share: Callable[[Genome], float] = lambda genome: 1.0,
        place: int = 0,
        beat_s: float = 15.0,
        grace_s: float = 60.0,
        patience_s: float = 300.0,
        gone: Callable[[str], bool] = lambda worker: False,
        worker: str | None = None,
    ) -> None:
        quiet()
        where = f"--storage {storage_name(storage)}" if isinstance(storage, str) else "the storage"
        opened = open_storage(storage) if isinstance(storage, str) else storage
        self.space, self.reward, self.wanted = space, reward, trials
        self.sampler_name = sampler if isinstance(sampler, str) else type(sampler).__name__
        self.sampler = make_sampler(sampler, space, seed)
        self._accuracy, self._latency, self._share = accuracy, latency_ms, share
        self._target_ms, self._place, self._beat_s = target_ms, place, beat_s
        many = getattr(latency_ms, "many", None)
        aim = Aim(self._one_by_one if many is None and hard else many, target_ms, hard, trials)
        own = {"space": space_mark(space), "sampler": self.sampler_name, "seed": seed, "trials": trials}
        self.study = join_study(opened, name, {**own, **(about or {})}, where)
        self._book = StudyBook(
            self.study, space, worker or worker_name(), where, grace_s=grace_s, patience_s=patience_s, gone=gone
        )
        self._optuna = self.sampler if isinstance(self.sampler, OptunaSampler) else None
        self.sampler.open(aim)
        self.trials: list[Trial] = []
        self.exhausted = False
        self._told: set[Genome] = set()
        self._batch: list[Genome] = []  # what is proposed after the last batch that was learned from
        self._batch_at = -1
        self._states: dict[Genome, str] = {}
        self._chunk = 1
        self._rewards: dict[int, float] = {}
        self._held: set[int] = set()
        self._lock = Lock()

    def offer(self, job: str) -> None:
        """Put `job`, what a worker must know, into the study, where `offered` finds it."""
        self._book.offer(job)

    def run(self) -> Iterator[Standing]:
        """Work until all `trials` networks have a score, by whomever; yields how far the study is, now and then."""
        with self._alive():
            while True:
                view = self._settle(self._book.read())
                self._learn(view)
                yield self._standing(view)
                if view.ended >= self.wanted:
                    return
                taken = self._take(view)
                if taken:
                    yield from self._score(taken, view)
                elif not view.running and self.exhausted:
                    self._book.finish()
                    return
                else:
                    time.sleep(_POLL_S)

    # -- what the study holds

    def _settle(self, view: View) -> View:
        """End the networks of workers that are dead; what there is after that."""
        if not view.silent:
            return view
        self._book.end([Ended(e.trial_id, None, {}) for e in view.silent])
        return self._book.read()

    def _learn(self, view: View) -> None:
        for e in view.before_the_first_running[len(self.trials) :]:
            self.trials.append(self._trial(len(self.trials), e))
        at = len(self._told)
        while (stop := at + self.sampler.batch(at)) <= len(self.trials):
            batch = self.trials[at:stop]
            if self._optuna is not None:
                self._optuna.add([(t.genome, self._values(t), t.sampler_state) for t in batch])
            self.sampler.seen = set(self._told)
            self.sampler.tell([t.genome for t in batch], [t.reward for t in batch])
            self._told.update(t.genome for t in batch)
            at = stop

    def _trial(self, number: int, e: Entry) -> Trial:
        t = e.trial
        state = str(t.user_attrs.get(SAMPLER, ""))
        if t.values is None:
            kept = t.user_attrs.get("accuracy")
            accuracy = math.nan if kept is None else float(kept)
            return Trial(number, e.genome, accuracy, self._latency(e.genome), math.nan, "failed", state)
        accuracy, latency = t.values
        return Trial(
            number, e.genome, accuracy, latency, self._rewarded(e.genome, accuracy, latency), "complete", state
        )

    def _rewarded(self, genome: Genome, accuracy: float, latency_ms: float) -> float:
        return self.reward(accuracy / 100, latency_ms) * self._share(genome)

    def _values(self, t: Trial) -> list[float] | None:
        if t.state != "complete":
            return None
        assert self._optuna is not None
        return [t.accuracy * self._share(t.genome), t.latency_ms] if self._optuna.two else [t.reward]

    def _standing(self, view: View) -> Standing:
        for e in view.live:
            if e.ended and e.trial_id not in self._rewards:
                self._rewards[e.trial_id] = float(e.trial.user_attrs.get(REWARD, math.nan))
        finite = [r for r in self._rewards.values() if math.isfinite(r)]
        return Standing(view.ended, len(view.running), max(finite, default=math.nan))

    # -- what is taken

    def _take(self, view: View) -> dict[int, Genome]:
        """Networks for this worker, of those that were lost and then new ones: (trial id: genome)."""
        room = min(self.wanted - len(view.live), self._chunk)
        if room <= 0:
            return {}
        genomes = list(view.lost)[:room] or self._proposed(view, room)
        self.exhausted = not genomes
        if not genomes:
            return {}
        begun, before = self._book.begin(genomes, self._states, self._beyond)
        with self._lock:
            self._held.update(begun)
        if before == view.trials:  # nobody else took anything meanwhile
            return begun
        now = self._book.read()
        place = {e.trial_id: i for i, e in enumerate(now.live)}
        # another was first with the same network, or took the last place
        late = [i for i in begun if place.get(i, self.wanted) >= self.wanted]
        self._end([Ended(i, None, {DOUBLE: True}) for i in late])
        if late:
            self._chunk = max(1, self._chunk // 2)
        return {i: g for i, g in begun.items() if i not in late}

    def _proposed(self, view: View, n: int) -> list[Genome]:
        at, live = len(self._told), {e.genome for e in view.live}
        left = self.sampler.batch(at) - (len(live) - at)
        if left > 0:
            if self._batch_at != at:
                self._batch, self._batch_at = self._asked(at, self.sampler.batch(at), 0, self._told), at
            fresh = [g for g in self._batch if g not in live][:left]
            if fresh:
                first = int(
                    self._place * _GOLDEN % 1.0 * len(fresh)
                )  # far from where others begin, whose number is unknown
                return [*fresh[first:], *fresh[:first]][:n]
        # the whole batch is at work elsewhere: more by what is known
        self.sampler.pending = np.array(
            [e.genome for e in view.live if e.genome not in self._told], dtype=np.int64
        ).reshape(-1, len(self.space.sizes))
        try:
            return self._asked(len(live), min(n, self.sampler.batch(at)), self._place, live)
        finally:
            self.sampler.pending = self.sampler.pending[:0]

    def _asked(self, start: int, n: int, place: int, seen: Collection[Genome]) -> list[Genome]:
        self.sampler.seen = set(seen)
        found = self.sampler.ask(start, n, place)
        if self._optuna is not None:
            self._states = {g: self._optuna.state(g) for g in found}
            self._optuna.release()
        return found

    def _beyond(self, genome: Genome) -> list[float]:
        """Constraints as Optuna has them, above 0 where they are not met: ms above the target, and the share of a
        reward that is lost by other limits."""
        over = [] if self._target_ms is None else [self._latency(genome) - self._target_ms]
        return [*over, 1.0 - self._share(genome)]

    # -- what is scored

    def _score(self, taken: dict[int, Genome], view: View) -> Iterator[Standing]:
        """Score what was taken and write it; what is left when the search is ended is given back."""
        left, ended = dict(taken), list[Ended]()
        began = since = time.monotonic()
        try:
            for trial_id, genome in taken.items():
                if view.lost.get(genome, 0) >= MOST_TRIES:
                    done = Ended(trial_id, None, {FAILED: f"begun {MOST_TRIES} times, and no worker came to its end"})
                else:
                    accuracy, latency = self._accuracy(genome), self._latency(genome)
                    done = scored(trial_id, accuracy, latency, self._rewarded(genome, accuracy, latency))
                ended.append(done)
                del left[trial_id]
                if (now := time.monotonic()) - since > _FLUSH_S and left:
                    self._end(ended)
                    ended, since = [], now
                    yield self._standing(view)
            each = (time.monotonic() - began) / len(taken)
            self._chunk = int(np.clip(_FLUSH_S / max(each, 1e-9), 1, min(2 * self._chunk, _MOST_AT_ONCE)))
        except (KeyboardInterrupt, GeneratorExit):
            ended += [Ended(i, None, {RETURNED: True}) for i in left]
            raise
        except BaseException:
            ended += [Ended(i, None, {} if n == 0 else {RETURNED: True}) for n, i in enumerate(left)]
            raise
        finally:
            self._end(ended)

    def _end(self, ended: Sequence[Ended]) -> None:
        self._book.end(ended)
        with self._lock:
            self._held.difference_update(t.trial_id for t in ended)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Signs of life for what is at work here."""
        stop = Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self._beat_s):
                count += 1
                with self._lock:
                    held = sorted(self._held)
                for trial_id in held:
                    self._book.beat(trial_id, count)

        thread = Thread(target=beat, daemon=True, name="signs of life")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _one_by_one(self, genomes: Genomes) -> NDArray[np.float64]:
        return np.array([self._latency(tuple(g)) for g in genomes.tolist()], dtype=np.float64)


def space_mark(space: SearchSpace) -> str:
    """What a space is, in some words: its name, its choices, and a digest of its smallest and largest network."""
    ends = [dump_spec(space.spec(tuple(end(n) for n in space.sizes), "end")) for end in (lambda n: 0, lambda n: n - 1)]
    digest = hashlib.sha256("\n".join([*space.names, *map(str, space.sizes), *ends]).encode()).hexdigest()
    h, w = space.resolution
    return f"{space.name} {space.width:g}x{h}x{w} {digest[:12]}"
