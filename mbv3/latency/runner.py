"""Timing the layers and networks of a plan, pass by pass, into a journal. Needs Python 3.10, numpy and the runtime.

A kit contains copies of timers.py, protocol.py, sessions.py, fingerprint.py, conditions.py and this file; a table of
this machine is measured by the same code. A pass visits every layer and then every whole network once, each in a new
session, so that a disturbance spoils one pass and not the others. Passes are repeated until the time is used or the
random error is small."""

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
from mbv3.latency.protocol import FEWEST, noise_floor, sums
from mbv3.latency.sessions import KINDS, Run, RuntimeFault
from mbv3.latency.timers import SLOW_MS, InProcess, Timer

__all__ = [
    "RESULTS",
    "Journal",
    "Measurements",
    "RunnerError",
    "fill",
    "grouped",
    "grouped_evenly",
    "header",
    "kit_id",
    "least_s",
    "main",
    "measure",
    "run_kit",
]

RESULTS = "mbv3-results/3"
LEAST = 3  # passes, where a work order does not say
LAYERS_PART, NETWORKS_PART = 0.15, 0.15  # largest share of the time in one pass: slow networks get fewer rounds
CHUNK_BYTES = 1_200_000_000  # of weights and activations in the sessions that are open together
CHUNK_LAYERS = 256


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def room() -> int:
    """Bytes that sessions open together may take: at most half of the free memory, where the system reports it."""
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return min(CHUNK_BYTES, 512 * int(meminfo["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        return CHUNK_BYTES


def grouped(items: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """`items` in groups that may be open together; `sizes[i]` is the size of item i in bytes."""
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
    """Indices of networks in groups that may be open together; each group holds networks of all sizes."""
    n = min(max(len(sizes), 1), max(1, -(-sum(sizes) // room())))
    return [list(range(g, len(sizes), n)) for g in range(n)]


def least_s(ms: float, passes: int = LEAST) -> float:
    """Seconds of the fewest runs of an item that takes `ms`: a visit is a run that is not timed and one or two that
    are."""
    return passes * FEWEST * (2 if ms >= SLOW_MS else 3) * ms / 1e3


def kit_id(kit: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides what is measured, but not of the time limits."""
    identifying = {k: v for k, v in kit.items() if k not in ("id", "noise", "seconds")}
    return hashlib.sha256(json.dumps(identifying).encode()).hexdigest()


def fill(body: bytes, holes: Sequence[Sequence[float]], seed: int) -> bytes:
    """The model `body` with random weights where they were removed: `holes` are (offset in `body`, number of floats,
    their standard deviation)."""
    rng = np.random.default_rng(seed)
    parts, at = [], 0
    for place, count, deviation in holes:
        weights = rng.standard_normal(int(count), dtype=np.float32) * np.float32(deviation)
        parts += [body[at : int(place)], weights.tobytes()]
        at = int(place)
    return b"".join([*parts, body[at:]])


class RunnerError(Exception):
    """A fault that the user of the device can cure."""


def _positive(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not 1e-6 < value < 1e7:  # False for NaN
        raise ValueError(f"{what} is {value!r}, not a time in ms")
    return float(value)


class Measurements:
    """The content of a journal; every line is checked when it is added.

    In pass p `layers[p][i]` is (p10, runs, mean, deviation) of layer i and `networks[p][i]` the time of network i, both
    in units of the reference network's time in the same step; `references[p]` holds the reference's own times in ms.
    """

    def __init__(self, work: Mapping[str, Any]) -> None:
        self.n_layers, self.n_networks = len(work["keys"]), len(work["networks"])
        self.least = int(work.get("passes", LEAST))
        self.layers: list[dict[int, tuple[float, int, float, float]]] = []
        self.networks: list[dict[int, float]] = []
        self.references: list[list[float]] = []
        self.drift = 0.0
        self.seconds = 0.0
        self.timed_s = 0.0  # the part of `seconds` spent in timed runs
        self.conditions: list[Mapping[str, float]] = []
        self.ended = False

    @property
    def passes(self) -> int:
        """Number of complete passes."""
        if not self.layers:
            return 0
        whole = len(self.layers[-1]) == self.n_layers and len(self.networks[-1]) == self.n_networks
        return len(self.layers) - (not whole)

    def add(self, entry: Any) -> None:
        """Add one line. Raises: ValueError, KeyError or TypeError; then nothing was added."""
        if self.ended:
            raise ValueError("there is a line after the end")
        if "end" in entry:
            if entry["end"] != len(self.layers) or self.passes != len(self.layers) or self.passes < self.least:
                raise ValueError("the end stands before everything was measured")
            self.ended = True
            return
        p, s = entry["pass"], float(entry["s"])
        conditions = {str(k): float(v) for k, v in entry["conditions"].items()}
        if not all(map(math.isfinite, conditions.values())):
            raise ValueError(f"the conditions {conditions} are not finite numbers")
        if type(p) is not int or p < 0 or not (p == len(self.layers) - 1 or p == self.passes == len(self.layers)):
            raise ValueError(f"pass {p} does not follow the lines before it")
        timed = float(entry["timed"])
        if not (0 <= s < 1e7 and 0 <= timed < 1e7):
            raise ValueError(f"a step of {s} s cannot have {timed} s of timed runs")
        which = "layers" if "layers" in entry else "networks"
        n = self.n_layers if which == "layers" else self.n_networks
        seen = getattr(self, which)[p] if p < len(self.layers) else {}
        ids = entry[which]
        if not ids or any(type(i) is not int or not 0 <= i < n for i in ids):
            raise ValueError(f"pass {p} has {which} that the kit does not ask for")
        if len(set(ids)) != len(ids) or any(i in seen for i in ids):
            raise ValueError(f"pass {p} has {which} twice")
        anchor, drift = _positive(entry["reference_ms"], "the reference"), float(entry.get("drift", 0.0))
        if not 0 <= drift < 1e3:
            raise ValueError(f"the drift is {drift}")
        rows = entry["ms"]
        if len(rows) != len(ids):
            raise ValueError(f"pass {p} has {len(rows)} times for {len(ids)} {which}")
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
        """(networks, complete passes): times in units of the reference's time."""
        return [[self.networks[p][i] for p in range(self.passes)] for i in range(self.n_networks)]

    def sums(self, uses: Sequence[Sequence[int]]) -> list[list[float]]:
        """(networks, complete passes): sums of the times of each network's layers, in units of the reference's time."""
        return sums([[self.layers[p][i][0] for p in range(self.passes)] for i in range(self.n_layers)], uses)

    def noise(self, uses: Sequence[Sequence[int]]) -> tuple[float, float]:
        """What random error adds to a prediction's error, in percent: from the measured networks, and from the
        layers."""
        return noise_floor(self.parts()), noise_floor(self.sums(uses))

    def enough(self, work: Mapping[str, Any]) -> bool:
        """Whether the passes so far are enough for `work`."""
        if self.passes < max(self.least, len(self.layers)):
            return False
        return self.seconds >= float(work["seconds"]) or math.hypot(*self.noise(work["uses"])) <= float(work["noise"])


class Journal:
    """The lines measured so far, in a file that only one process at a time may open.

    A damaged or half-written line and all lines after it are dropped. `overwrite`: lines of other work or of another
    device are dropped too; otherwise they are an error, unless there is only a header. `wait`: wait for another process
    that has the file; otherwise that is an error."""

    def __init__(
        self, path: Path, work: Mapping[str, Any], header: Mapping[str, Any], *, overwrite: bool, wait: bool = False
    ) -> None:
        self.path = path
        self.work = work
        self.measured = Measurements(work)
        self.file = path.open("a+b")
        try:
            self._lock(wait)
            self.file.seek(0)
            good = self._read(self.file.read().split(b"\n")[:-1], header, overwrite)
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
                    f"{self.path}: another process is measuring into this file; wait for it, or stop it"
                ) from None
            # after a lost connection the process on this device works on until it next prints something
            _to_stderr(f"waiting for another process that measures into {self.path}")
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def _read(self, lines: Sequence[bytes], header: Mapping[str, Any], overwrite: bool) -> int:
        """Add the complete lines; returns their length in bytes."""
        try:
            same = bool(lines) and self._same(json.loads(lines[0]), header)
        except (ValueError, RecursionError):
            same = False
        if not same:
            if lines[1:] and not overwrite:
                raise RunnerError(
                    f"{self.path}: holds results of another kit or device; move it away and run this again"
                )
            return 0
        good = before_end = len(lines[0]) + 1
        for line in lines[1:]:
            try:
                self.measured.add(json.loads(line))
                before_end = good
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                break
            good += len(line) + 1
        if self.measured.ended and not self.measured.enough(self.work):  # the time limits were raised since it ended
            self.measured.ended = False
            return before_end
        return good

    @staticmethod
    def _same(first: Any, header: Mapping[str, Any]) -> bool:
        """Whether a journal whose first line is `first` belongs to this work and this device."""
        try:
            ids = [Fingerprint(**x["fingerprint"]).id for x in (first, header)]
            return bool(first["format"] == header["format"] and first["kit"] == header["kit"] and ids[0] == ids[1])
        except (KeyError, TypeError):
            return False

    def add(self, entry: dict[str, Any]) -> None:
        self.measured.add(entry)
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
    """Time everything of `work` that is not in the journal yet. Yields (steps done, expected number of steps)."""
    measured, n, seconds = journal.measured, len(work["keys"]), float(work["seconds"])
    groups = grouped_evenly(work["network_bytes"])
    while not measured.enough(work):
        p = len(measured.layers) - (measured.passes < len(measured.layers))
        # shuffled: in network order a disturbance would hit all layers of one depth, and so bias every network that is
        # deep or wide there
        order = np.random.default_rng(p).permutation(n).tolist()
        chunks = grouped(order, work["layer_bytes"])
        steps = [("layers", ids) for ids in chunks] + [("networks", ids) for ids in groups]
        for step, (which, ids) in enumerate(steps):
            seen = getattr(measured, which)[p] if p < len(measured.layers) else {}
            if todo := [i for i in ids if i not in seen]:
                seed = 1000 * p + step
                if which == "layers":
                    entry = timer.layers(todo, seed=seed, most_s=LAYERS_PART * seconds / len(chunks))
                else:
                    most_s = NETWORKS_PART * seconds / len(groups)
                    entry = timer.networks([n + i for i in todo], seed=seed, most_s=most_s)
                journal.add({"pass": p, which: todo, **entry})
            yield p * len(steps) + step + 1, _steps(measured, work, len(steps), p)
    if not measured.ended:
        journal.add({"end": measured.passes})


def _steps(measured: Measurements, work: Mapping[str, Any], per_pass: int, p: int) -> int:
    """Number of steps if all of the time is used; there are fewer where the random error is small before that."""
    whole = measured.passes
    passes = measured.least if not whole else math.ceil(work["seconds"] / max(measured.seconds / whole, 1e-3))
    return per_pass * max(measured.least, p + 1, passes)


def run_kit(folder: Path) -> Iterator[tuple[int, int]]:
    """Run the kit in `folder`. Yields as `measure`. Raises: RunnerError."""
    try:
        kit = json.loads((folder / "kit.json").read_text("utf-8"))
        good = kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise RunnerError(f"{folder / 'kit.json'}: was edited after the kit was made; copy the kit again")
    models = (folder / "models.bin").read_bytes()
    if hashlib.sha256(models).hexdigest() != kit["models_sha256"]:
        raise RunnerError(f"{folder / 'models.bin'}: is not the file that the kit was made with; copy the kit again")
    for name, sha256 in kit["code_sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
            raise RunnerError(f"{folder / name}: was edited after the kit was made; copy the kit again")
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
        except Exception as e:  # every runtime has its own exceptions
            raise RunnerError(
                f"{kind.runtime} {fingerprint.runtime_version} cannot open a model of the kit ({e})"
            ) from None

    journal = Journal(folder / "results.jsonl", kit, header(kit["id"], fingerprint), overwrite=False, wait=True)
    yield from measure(kit, InProcess(opened, len(kit["models"]) - 1, threads), journal)


def main() -> int:
    """`python run.py` in the folder of the kit. Exit code: 0 done, 2 a fault to cure first, 4 interrupted."""
    folder = Path(__file__).resolve().parents[2]
    try:
        for done, total in run_kit(folder):
            _to_stderr(f"{done}/{total}")
    except RunnerError as e:
        _to_stderr(f"error: {e}")
        return 2
    except KeyboardInterrupt:
        _to_stderr("interrupted; what was measured is kept, and the same command continues there")
        return 4
    except OSError as e:
        _to_stderr(f"error: {e.filename or folder}: {e.strerror}; what was measured is kept")
        return 2
    print(folder / "results.jsonl")  # noqa: T201
    return 0
