"""Timing what a plan asks for, pass by pass, into a journal. Needs Python 3.10, numpy and the runtime.

The files timers.py, protocol.py, sessions.py, fingerprint.py, conditions.py and this one travel in a kit as they are; a
table of this machine is measured by the same code. A pass is one visit to every layer, then to every whole network, all
opened anew: what a disturbance spoils in one pass the others make good. They go on until the time is used or chance is
small.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.latency.conditions import cores_to_use
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.protocol import noise_floor, sums
from mbv3.latency.sessions import KINDS, Run, RuntimeFault
from mbv3.latency.timers import InProcess, Timer

__all__ = [
    "RESULTS",
    "Journal",
    "RunnerError",
    "Told",
    "fill",
    "grouped",
    "grouped_evenly",
    "header",
    "kit_id",
    "main",
    "measure",
    "run_kit",
]

RESULTS = "mbv3-results/3"
LEAST = 3  # passes
LAYERS_PART, NETWORKS_PART = 0.15, 0.15  # of the time given, at most, in one pass: slow networks get fewer rounds
CHUNK_BYTES = 1_200_000_000  # sessions open at one time: weights and activations
CHUNK_LAYERS = 256


def room() -> int:
    """Bytes that sessions open at one time may take: no more than half of the memory that is free, where it is told."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return min(CHUNK_BYTES, 512 * int(told["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        return CHUNK_BYTES


def grouped(items: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Runs of `items` that may be open together: `sizes[i]` are the bytes of item i."""
    most = room()
    groups: list[list[int]] = []
    size = 0
    for i in items:
        if not groups or len(groups[-1]) >= CHUNK_LAYERS or size + sizes[i] > most:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += sizes[i]
    return groups


def grouped_evenly(sizes: Sequence[int]) -> list[list[int]]:
    """Indices of networks that may be open together, each group with some of all sizes."""
    n = min(max(len(sizes), 1), max(1, -(-sum(sizes) // room())))
    return [list(range(g, len(sizes), n)) for g in range(n)]


def kit_id(kit: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides what is measured; not of how long."""
    said = {k: v for k, v in kit.items() if k not in ("id", "noise", "seconds")}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def fill(body: bytes, holes: Sequence[Sequence[float]], seed: int) -> bytes:
    """A model whose weights were left out, with random ones: `holes` are (place in `body`, floats, their deviation)."""
    rng = np.random.default_rng(seed)
    parts, at = [], 0
    for place, count, deviation in holes:
        weights = rng.standard_normal(int(count), dtype=np.float32) * np.float32(deviation)
        parts += [body[at : int(place)], weights.tobytes()]
        at = int(place)
    return b"".join([*parts, body[at:]])


class RunnerError(Exception):
    """Something that whoever runs this can cure."""


def _positive(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not 1e-6 < value < 1e7:  # False for NaN
        raise ValueError(f"{what} is {value!r}, not a time in ms")
    return float(value)


class Told:
    """What the lines of a journal say, each checked as it is taken.

    Of every pass: `layers[p][i]` is (p10, runs, mean, deviation) of layer i and `networks[p][i]` the time of network i,
    both over the reference's in the same minute; `references[p]` the reference's own times in ms.
    """

    def __init__(self, work: Mapping[str, Any]) -> None:
        self.n_layers, self.n_networks = len(work["keys"]), len(work["networks"])
        self.layers: list[dict[int, tuple[float, int, float, float]]] = []
        self.networks: list[dict[int, float]] = []
        self.references: list[list[float]] = []
        self.drift = 0.0
        self.seconds = 0.0
        self.timed_s = 0.0  # of these in timed runs
        self.conditions: list[Mapping[str, float]] = []
        self.ended = False

    @property
    def passes(self) -> int:
        """How many are whole."""
        if not self.layers:
            return 0
        whole = len(self.layers[-1]) == self.n_layers and len(self.networks[-1]) == self.n_networks
        return len(self.layers) - (not whole)

    def take(self, entry: Any) -> None:
        """One line. Raises: ValueError, KeyError or TypeError, and is as before."""
        if self.ended:
            raise ValueError("a line after the end")
        if "end" in entry:
            if entry["end"] != len(self.layers) or self.passes != len(self.layers) or self.passes < LEAST:
                raise ValueError("the end comes before all was measured")
            self.ended = True
            return
        p, s = entry["pass"], float(entry["s"])
        conditions = {str(k): float(v) for k, v in entry["conditions"].items()}
        if not all(map(math.isfinite, conditions.values())):
            raise ValueError(f"conditions of {conditions}")
        if type(p) is not int or p < 0 or not (p == len(self.layers) - 1 or p == self.passes == len(self.layers)):
            raise ValueError(f"there is no pass {p} now")
        timed = float(entry["timed"])
        if not (0 <= s < 1e7 and 0 <= timed < 1e7):
            raise ValueError(f"a step of {s} s with {timed} s of timed runs")
        which = "layers" if "layers" in entry else "networks"
        n = self.n_layers if which == "layers" else self.n_networks
        seen = getattr(self, which)[p] if p < len(self.layers) else {}
        ids = entry[which]
        if not ids or any(type(i) is not int or not 0 <= i < n for i in ids):
            raise ValueError(f"pass {p} has {which} that are not asked for")
        if len(set(ids)) != len(ids) or any(i in seen for i in ids):
            raise ValueError(f"{which} are twice in pass {p}")
        anchor, drift = _positive(entry["reference_ms"], "the reference"), float(entry.get("drift", 0.0))
        if not 0 <= drift < 1e3:
            raise ValueError(f"the drift is {drift}")
        rows = entry["ms"]
        if len(rows) != len(ids):
            raise ValueError(f"{which} of pass {p} are missing or too many")
        if which == "layers":
            new: dict[int, Any] = {i: self._row(row, f"layer {i}", anchor) for i, row in zip(ids, rows, strict=True)}
        else:
            new = {i: _positive(ms, f"network {i}") / anchor for i, ms in zip(ids, rows, strict=True)}
        if p == len(self.layers):
            self.layers.append({})
            self.networks.append({})
            self.references.append([])
        getattr(self, which)[p].update(new)
        if which == "networks":
            self.references[p].append(anchor)
        self.drift = max(self.drift, drift)
        self.seconds += s
        self.timed_s += timed
        self.conditions.append(conditions)

    @staticmethod
    def _row(row: Any, what: str, anchor: float) -> tuple[float, int, float, float]:
        ms, n, mean, std = row
        if type(n) is not int or not 0 < n < 10**9 or not 0 <= float(std) < 1e7:
            raise ValueError(f"{what} has {n} runs with a deviation of {std} ms")
        return _positive(ms, what) / anchor, n, _positive(mean, what) / anchor, float(std) / anchor

    def parts(self) -> list[list[float]]:
        """Of every network its time in every whole pass, over the reference's."""
        return [[self.networks[p][i] for p in range(self.passes)] for i in range(self.n_networks)]

    def sums(self, uses: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of every network the sum of its layers in every whole pass, over the reference's time."""
        return sums([[self.layers[p][i][0] for p in range(self.passes)] for i in range(self.n_layers)], uses)

    def noise(self, uses: Sequence[Sequence[int]]) -> tuple[float, float]:
        """What chance adds to a prediction's error, in percent: by the networks it is held against, by its layers."""
        return noise_floor(self.parts()), noise_floor(self.sums(uses))

    def enough(self, work: Mapping[str, Any]) -> bool:
        """Whether no further pass is asked for."""
        if self.passes < max(LEAST, len(self.layers)):
            return False
        return self.seconds >= float(work["seconds"]) or math.hypot(*self.noise(work["uses"])) <= float(work["noise"])


class Journal:
    """The lines measured so far, in a file that one process at a time may have. What is damaged, half written or
    behind such a line is dropped. `anew`: lines of other work or another device are dropped too; otherwise they are an
    error, but for a header with nothing measured behind it. `wait`: another process in the file is waited for;
    otherwise it is an error."""

    def __init__(
        self, path: Path, work: Mapping[str, Any], header: Mapping[str, Any], *, anew: bool, wait: bool = False
    ) -> None:
        self.path = path
        self.work = work
        self.told = Told(work)
        self.file = path.open("a+b")
        try:
            self._lock(wait)
            self.file.seek(0)
            good = self._read(self.file.read().split(b"\n")[:-1], header, anew)
            self.file.truncate(good)
            if not good:
                self._write(header)
        except BaseException:
            self.file.close()
            raise

    def _lock(self, wait: bool) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                return  # a file system without locks (NFS, Lustre): nobody can be seen there, and nobody is kept out
            if not wait:
                raise RunnerError(
                    f"{self.path}: another process is measuring into this file; wait for it, or end it"
                ) from None
            # a connection that was cut leaves the run behind it at work until it next has something to say
            print(f"waiting for another process that measures into {self.path}", file=sys.stderr, flush=True)  # noqa: T201
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def _read(self, lines: Sequence[bytes], header: Mapping[str, Any], anew: bool) -> int:
        """Take what is whole, and its length in bytes."""
        try:
            same = bool(lines) and self._same(json.loads(lines[0]), header)
        except (ValueError, RecursionError):
            same = False
        if not same:
            if lines[1:] and not anew:
                raise RunnerError(f"{self.path}: results of another kit or device; move the file away and run again")
            return 0
        good = before_end = len(lines[0]) + 1
        for line in lines[1:]:
            try:
                self.told.take(json.loads(line))
                before_end = good
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                break
            good += len(line) + 1
        if self.told.ended and not self.told.enough(self.work):  # more is asked for than when it ended
            self.told.ended = False
            return before_end
        return good

    @staticmethod
    def _same(first: Any, header: Mapping[str, Any]) -> bool:
        """Whether a journal that begins with `first` is of this work and this device."""
        try:
            ids = [Fingerprint(**x["fingerprint"]).id for x in (first, header)]
            return bool(first["format"] == header["format"] and first["kit"] == header["kit"] and ids[0] == ids[1])
        except (KeyError, TypeError):
            return False

    def add(self, entry: dict[str, Any]) -> None:
        self.told.take(entry)
        self._write(entry)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def header(work_id: str, fingerprint: Fingerprint) -> dict[str, Any]:
    """The first line of a journal."""
    return {"format": RESULTS, "kit": work_id, "fingerprint": fingerprint.as_dict()}


def measure(work: Mapping[str, Any], timer: Timer, journal: Journal) -> Iterator[tuple[int, int]]:
    """Time what `work` asks for and is not in the journal yet. Yields (steps done, steps as far as is known)."""
    told, n, seconds = journal.told, len(work["keys"]), float(work["seconds"])
    groups = grouped_evenly(work["network_bytes"])
    while not told.enough(work):
        p = len(told.layers) - (told.passes < len(told.layers))
        order = np.random.default_rng(p).permutation(n).tolist()  # mixed: in the order of the network a disturbance
        # would fall on all layers of one depth, and bias every network that is deep or wide there
        chunks = grouped(order, work["layer_bytes"])
        steps = [("layers", ids) for ids in chunks] + [("networks", ids) for ids in groups]
        for step, (which, ids) in enumerate(steps):
            seen = getattr(told, which)[p] if p < len(told.layers) else {}
            if todo := [i for i in ids if i not in seen]:
                seed = 1000 * p + step
                if which == "layers":
                    said = timer.layers(todo, seed=seed, most_s=LAYERS_PART * seconds / len(chunks))
                else:
                    most_s = NETWORKS_PART * seconds / len(groups)
                    said = timer.networks([n + i for i in todo], seed=seed, most_s=most_s)
                journal.add({"pass": p, which: todo, **said})
            yield p * len(steps) + step + 1, _steps(told, work, len(steps), p)
    if not told.ended:
        journal.add({"end": told.passes})


def _steps(told: Told, work: Mapping[str, Any], per_pass: int, p: int) -> int:
    """How many steps there will be if the time is used up; fewer where chance is small before that."""
    whole = told.passes
    passes = LEAST if not whole else math.ceil(work["seconds"] / max(told.seconds / whole, 1e-3))
    return per_pass * max(LEAST, p + 1, passes)


def run_kit(folder: Path) -> Iterator[tuple[int, int]]:
    """Run the kit in `folder`. Yields what `measure` does. Raises: RunnerError."""
    try:
        kit = json.loads((folder / "kit.json").read_text("utf-8"))
        good = kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise RunnerError(f"{folder / 'kit.json'}: was edited after the kit was made; copy the kit anew")
    models = (folder / "models.bin").read_bytes()
    if hashlib.sha256(models).hexdigest() != kit["models_sha256"]:
        raise RunnerError(f"{folder / 'models.bin'}: is not the file that the kit was made with; copy the kit anew")
    for name, told in kit["code_sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != told:
            raise RunnerError(f"{folder / name}: was edited after the kit was made; copy the kit anew")
    kind, threads = KINDS[kit["runtime"]], int(kit["threads"])
    most, why = cores_to_use()
    if threads > most:
        raise RunnerError(f"the kit is for {threads} threads, and here are {most} at most, {why}")
    try:
        fingerprint = kind.fingerprint(threads)
    except RuntimeFault as e:
        raise RunnerError(str(e)) from None

    def opened(i: int) -> Run:
        m = kit["models"][i]
        model = fill(models[m["at"] : m["at"] + m["bytes"]], m["holes"], i)
        try:
            return kind.open(model, threads)
        except Exception as e:  # every runtime has exceptions of its own
            raise RunnerError(
                f"{kind.runtime} {fingerprint.runtime_version} cannot open a model of the kit ({e})"
            ) from None

    journal = Journal(folder / "results.jsonl", kit, header(kit["id"], fingerprint), anew=False, wait=True)
    yield from measure(kit, InProcess(opened, len(kit["models"]) - 1, threads), journal)


def main() -> int:
    """`python run.py` in the kit's folder. 0 done, 2 something must be cured first."""
    folder = Path(__file__).resolve().parents[2]
    try:
        for done, total in run_kit(folder):
            print(f"{done}/{total}", file=sys.stderr, flush=True)  # noqa: T201
    except RunnerError as e:
        print(f"error: {e}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, the same command goes on there", file=sys.stderr)  # noqa: T201
        return 4
    except OSError as e:
        print(f"error: {e.filename or folder}: {e.strerror}; what was measured is kept", file=sys.stderr)  # noqa: T201
        return 2
    print(folder / "results.jsonl")  # noqa: T201
    return 0
