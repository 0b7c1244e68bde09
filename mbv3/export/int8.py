"""What of a network goes into int8: chosen by its answers and its time, judged on images that are kept for that."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import shown
from mbv3.events import Event, Progress, StageStart
from mbv3.graph import CLIPS, PROBE, Calibration, Recipe, calibrate, code_of, coded_activations, mixed, parts, probe

__all__ = ["Candidate", "Compared", "Examples", "Int8", "choose_int8", "compared", "ratio"]

Array = NDArray[np.float32]
RANGES, PROBES = 32, 16  # calibration images that ranges are taken from, and that clips are chosen on
HARMLESS = 2e-4  # divergence that one activation may cause before its clip is looked for
LARGE = 3 * 320 * 320  # values of an image, beyond which fewer choose clips
MOST_BYTES = 400_000_000  # of answers in float that are kept for comparing
MOST_CUTS = 16
PASSES, ROUNDS = 5, 6  # over all candidates, and of each by turns with the file in float
# what a file may lose on the choosing images: points, and nats for each answer. Nats show far less than a point: at
# 0.01 of them 4 answers of 100 change, which costs a point or two
LOSS, DIVERGENCE = 1.0, 0.006
NEARLY = 0.95  # of the best speed: there the better answers decide


@dataclass(frozen=True, slots=True)
class Examples:
    """`images`: (1, C, H, W) each; `labels`: the class of each, or None."""

    images: Sequence[Array]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two files on `n` images: top-1 of each in percent, where classes are known, and how many images the first alone
    has right (`lost`) and the second alone (`won`); the percent of answers that agree; `divergence`: of the second's
    answers from the first's, in nats for each answer (Kullback-Leibler), or for outputs that are no classes the squared
    difference against the variance."""

    n: int
    divergence: float
    agreement: float | None = None
    fp32: float | None = None
    int8: float | None = None
    lost: int | None = None
    won: int | None = None

    @property
    def loss(self) -> float:
        """Points of top-1 lost; without classes half of the answers that changed, the most that is usual."""
        if self.fp32 is not None and self.int8 is not None:
            return self.fp32 - self.int8
        return 0.0 if self.agreement is None else (100 - self.agreement) / 2

    @property
    def loss_error(self) -> float | None:
        """Standard error of the points of top-1 lost, image by image; where none differs, as if one did."""
        if self.lost is None or self.won is None:
            return None
        apart = max(self.lost + self.won, 1) / self.n
        return 100 * float(np.sqrt((apart - ((self.lost - self.won) / self.n) ** 2) / self.n))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file with `floats` in float, on the choosing images, and how many times as fast as in fp32 it is."""

    floats: tuple[str, ...]
    compared: Compared
    speed: float

    @property
    def kept(self) -> bool:
        """Whether its answers are still the network's. Two images more or less are chance."""
        return self.compared.loss <= max(LOSS, 200 / self.compared.n) and self.compared.divergence <= DIVERGENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8:
    """The file and what it answers on images that had no part in it. `floats`: what is in float in it; `clips`: percent
    of the values of each activation that lie beyond its codes at each end."""

    model: bytes
    floats: tuple[str, ...]
    clips: dict[str, float]
    calibrated: int
    chosen: int
    held_out: bool
    report: Compared
    speed: float
    candidates: tuple[Candidate, ...]

    def line(self) -> str:
        """For a person: accuracy of both files, what is in float, the ratio of times."""
        r = self.report
        where = (
            f"{r.n} images that had no part in the file"
            if self.held_out
            else f"the {r.n} images that it was calibrated on"
        )
        kept = f"kept in float: {listed(self.floats) or 'nothing'}"
        fast = f"{self.speed:.2f} times as fast" + ("" if self.speed > 1 else ": int8 brings nothing on this CPU")
        if r.fp32 is not None:
            change = f"{-r.loss:+.1f} +- {r.loss_error or 0.0:.1f} points"
            return f"top-1 on {where}: fp32 {r.fp32:.1f} %, int8 {r.int8:.1f} %, {change} ({kept}), {fast}"
        if r.agreement is not None:
            return f"on {where} int8 answers as fp32 on {r.agreement:.1f} % ({kept}), {fast}"
        return f"on {where} outputs in int8 differ by {100 * r.divergence**0.5:.1f} % of their spread ({kept}), {fast}"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        r = self.report
        return {
            "images": {"calibrated": self.calibrated, "chosen": self.chosen, "reported": r.n},
            "held_out": self.held_out, "fp32_top1": rounded(r.fp32, 2), "int8_top1": rounded(r.int8, 2),
            "lost": r.lost, "won": r.won, "agreement": rounded(r.agreement, 2), "divergence": rounded(r.divergence, 5),
            "floats": list(self.floats), "times_as_fast": rounded(self.speed, 3),
        }  # fmt: skip


def rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def listed(floats: Sequence[str]) -> str:
    """`stem, rows 0 to 3`."""
    rows = [name.partition(".")[2] for name in floats if name.startswith("rows.")]
    text = [f"rows {rows[0]} to {rows[-1]}" if rows[1:] else f"row {rows[0]}"] if rows else []
    return ", ".join([*(n for n in floats if n == "stem"), *text, *(n for n in floats if n in ("tail", "head"))])


def opened(model: bytes, threads: int = 0) -> Any:
    """A session of ONNX Runtime on the CPU; 0: all threads."""
    import onnxruntime  # slow to import, and needed here only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # inputs that steer a probe make it warn
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ---- answers -------------------------------------------------------------------------------------------------


def _logs(x: Array) -> Array:
    x = x - x.max(axis=1, keepdims=True)
    logs: Array = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return logs


def _differ(whole: list[Array], other: list[Array]) -> tuple[float, float | None]:
    """(divergence, share of answers that agree) of the outputs for one image."""
    if len(whole) > 1:  # a detector
        spread = [
            float(np.square(a - b).mean() / max(float(a.var()), 1e-12)) for a, b in zip(whole, other, strict=True)
        ]
        return float(np.mean(spread)), None
    a, b = _logs(whole[0]), _logs(other[0])
    return float((np.exp(a) * (a - b)).sum(axis=1).mean()), float((a.argmax(1) == b.argmax(1)).mean())


class Judge:
    """Answers in float on some examples, kept, and those of other files beside them."""

    def __init__(self, session: Any, examples: Examples) -> None:
        self.labels = examples.labels
        self.images: list[Array] = []
        self.answers: list[list[Array]] = []
        used = 0
        for image in examples.images:
            if used > MOST_BYTES:
                break
            self.images.append(image)
            self.answers.append(session.run(None, {"input": image}))
            used += image.nbytes + sum(a.nbytes for a in self.answers[-1])

    def divergence(self, session: Any, more: dict[str, NDArray[Any]]) -> float:
        """Of the answers of `session`, with inputs `more`, from those in float."""
        pairs = zip(self.images, self.answers, strict=True)
        return float(np.mean([_differ(a, session.run(None, {"input": x, **more}))[0] for x, a in pairs]))

    def compare(self, session: Any) -> Compared:
        agreed: list[float] = []
        parts_of: list[float] = []
        right: list[tuple[bool, bool]] = []
        for i, (image, whole) in enumerate(zip(self.images, self.answers, strict=True)):
            other = session.run(None, {"input": image})
            divergence, same = _differ(whole, other)
            parts_of.append(divergence)
            agreed += [] if same is None else [same]
            if self.labels is not None:
                right.append((whole[0].argmax() == self.labels[i], other[0].argmax() == self.labels[i]))
        fp32, int8 = (100 * np.mean(right, axis=0)).tolist() if right else (None, None)
        lost = sum(bool(a and not b) for a, b in right) if right else None
        won = sum(bool(b and not a) for a, b in right) if right else None
        return Compared(n=len(self.images), divergence=float(np.mean(parts_of)), fp32=fp32, int8=int8, lost=lost,
                        won=won, agreement=100 * float(np.mean(agreed)) if agreed else None)  # fmt: skip


def compared(whole: bytes, other: bytes, examples: Examples) -> Compared:
    """What two files of one network answer."""
    return Judge(opened(whole), examples).compare(opened(other))


def ratio(whole: bytes, other: bytes, image: Array, rounds: int = 40, threads: int = 1) -> float:
    """How many times as fast `other` is: both timed by turns, so that a slow moment meets both.

    One thread is timed by its own clock: where other programs share the core, the moments in which they run would stand
    for the file that they meet."""
    clock = time.thread_time if threads == 1 and sys.platform != "win32" else time.perf_counter  # ticks of 16 ms there
    sessions = [opened(model, threads) for model in (whole, other)]
    took = np.empty((rounds + 3, 2))
    for i in range(rounds + 3):
        for j, session in enumerate(sessions):
            start = clock()
            session.run(None, {"input": image})
            took[i, j] = clock() - start
    return float(np.median(took[3:, 0] / took[3:, 1]))


def speeds(whole: bytes, others: Sequence[bytes], image: Array) -> Generator[Event, None, list[float]]:
    """`ratio` of each file, the median of passes over all of them, so that a slow minute meets all alike."""
    passes: list[list[float]] = []
    for i in range(PASSES):
        passes.append([ratio(whole, other, image, ROUNDS) for other in others])
        yield Progress("int8", i + 1, PASSES, f"times of {len(others)} files")
    found: list[float] = np.median(passes, axis=0).tolist()
    return found


# ---- the choice ----------------------------------------------------------------------------------------------


def _clips(model: bytes, seen: Calibration, judge: Judge) -> Generator[Event, None, dict[str, float]]:
    """For each activation the clip under which, rounded alone, it changes the answers least."""
    found: dict[str, float] = {}
    names = coded_activations(model, seen)
    for i, (name, swish) in enumerate(names.items()):
        session = opened(probe(model, name))
        best = np.inf
        for clip in CLIPS:
            code = code_of(seen, name, clip, swish=swish)
            step, zero = PROBE
            ends: dict[str, NDArray[Any]] = {step: np.array(code.step, np.float32), zero: np.array(code.zero, np.uint8)}
            divergence = judge.divergence(session, ends)
            if divergence < best:
                best, found[name] = divergence, clip
            if best < HARMLESS or divergence > 2 * best:
                break
        yield Progress("int8", i + 1, len(names), "activations whose codes are chosen")
    return found


def _cuts(model: bytes) -> list[tuple[str, ...]]:
    """The parts that stay in float: the first ones, whose channels are few and whose errors go through all others."""
    names = parts(model)
    ends = np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_CUTS)).round().astype(int))
    return [names[:k] for k in ends]


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest whose answers are kept, the better one where speeds are close; else the one that answers best."""
    kept = [c for c in candidates if c.kept]
    if not kept:
        return min(candidates, key=lambda c: c.compared.divergence)
    fastest = max(c.speed for c in kept)
    return min((c for c in kept if c.speed >= NEARLY * fastest), key=lambda c: c.compared.divergence)


def choose_int8(model: bytes, learn: Examples, choose: Examples, report: Examples) -> Generator[Event, None, Int8]:
    """The int8 file of `model` (as `network_model` writes it, one image at once) by its answers and its time.

    `learn`: images for the ranges of activations and the clips of these; `choose`: what stays in float is chosen on
    them; `report`: the file is judged on them once. Where `report` is `learn`, nothing was held out.
    """
    yield StageStart("int8", f"choosing int8 codes on {len(learn)} images and what stays in float on {len(choose)}")
    whole = opened(model)
    seen = calibrate(model, [learn.images[i] for i in range(min(RANGES, len(learn)))])
    probes = PROBES if learn.images[0].size <= LARGE else PROBES // 4
    few = Examples([learn.images[len(learn) - 1 - i] for i in range(min(probes, len(learn)))])
    clips = yield from _clips(model, seen, Judge(whole, few))
    judge = Judge(whole, choose)
    cuts = _cuts(model)
    files: list[bytes] = []
    answers: list[Compared] = []
    for i, floats in enumerate(cuts):
        files.append(mixed(model, seen, Recipe(floats=floats, clips=clips)))
        answers.append(judge.compare(opened(files[-1])))
        yield Progress("int8", i + 1, len(cuts), f"in float: {shown(listed(floats) or 'nothing')}")
    fast = yield from speeds(model, files, choose.images[0])
    candidates = [Candidate(*c) for c in zip(cuts, answers, fast, strict=True)]
    best = _best(candidates)
    final = files[cuts.index(best.floats)]
    return Int8(
        model=final, floats=best.floats, clips=clips, calibrated=len(learn), chosen=best.compared.n,
        held_out=report is not learn, report=compared(model, final, report),
        speed=ratio(model, final, report.images[0], 100), candidates=tuple(candidates),
    )  # fmt: skip
