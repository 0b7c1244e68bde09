"""A kit on its device: open its models, time them, keep every result. Needs Python 3.10, numpy and the runtime.

The files protocol.py, sessions.py, fingerprint.py and this one travel in the kit as they are. Results go to
results.jsonl, one line for each pass over a chunk of layers and each part of a group of networks; the same command
after an interruption goes on there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.latency.protocol import interleave
from mbv3.latency.sessions import OPEN, PACKAGES, Run

__all__ = ["RESULTS", "fill", "kit_id", "main", "measure", "time_layers", "time_networks"]

RESULTS = "mbv3-results/1"
LAYERS_S, NETWORKS_S = 0.3, 1.2  # at least so long are a chunk of layers, and one part of networks, timed


def time_layers(opened: Sequence[Run], anchor: Run, *, rounds: int, seed: int) -> tuple[list[list[float]], float]:
    """Run times in ms of each open layer, and the anchor's p10, of one pass."""
    samples = interleave(opened, anchor, rounds=rounds, seed=seed, min_s=LAYERS_S)
    return [[t for r in item for t in r] for item in samples.items], samples.anchor_ms()


def time_networks(
    opened: Sequence[Run], anchor: Run, *, rounds: int, seed: int, min_s: float = NETWORKS_S
) -> tuple[list[float], float]:
    """p10 in ms of each open network in one part, and the anchor's variation between rounds."""
    samples = interleave(opened, anchor, rounds=rounds, seed=seed, min_s=min_s, min_runs=2, max_runs=2)
    return [samples.ms(i) for i in range(len(opened))], samples.anchor_variation()


def kit_id(kit: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a kit says."""
    return hashlib.sha256(json.dumps({k: v for k, v in kit.items() if k != "id"}).encode()).hexdigest()


def fill(body: bytes, holes: Sequence[Sequence[float]], seed: int) -> bytes:
    """A model whose weights were left out, with random ones: `holes` are (place in `body`, floats, their deviation)."""
    rng = np.random.default_rng(seed)
    parts, at = [], 0
    for place, count, deviation in holes:
        weights = rng.standard_normal(int(count), dtype=np.float32) * np.float32(deviation)
        parts += [body[at : int(place)], weights.tobytes()]
        at = int(place)
    return b"".join([*parts, body[at:]])


class _Fault(Exception):
    """Something that whoever runs the kit can cure."""


def _same(entry: dict[str, Any], kit: str, fingerprint: Fingerprint) -> bool:
    """Whether results that begin with `entry` are of this kit and this device."""
    try:
        return bool(entry["kit"] == kit) and Fingerprint(**entry["fingerprint"]).id == fingerprint.id
    except (KeyError, TypeError):
        return False


class _Results:
    """The lines written so far. A last line that is half written is dropped."""

    def __init__(self, path: Path, header: dict[str, Any], fingerprint: Fingerprint) -> None:
        self.file = path.open("a+", encoding="utf-8", newline="")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _Fault(f"{path}: another process is running this kit; wait for it, or end it") from None
        self.file.seek(0)
        self.entries: list[dict[str, Any]] = []
        good = 0
        for line in self.file.read().split("\n")[:-1]:
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                break
            good += len(line.encode()) + 1
        if self.entries and not _same(self.entries[0], header["kit"], fingerprint):
            raise _Fault(f"{path}: these are results of another kit or device; move the file away and run again")
        self.file.truncate(good)
        if not self.entries:
            self.add(header)

    def add(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.entries.append(entry)

    def has(self, kind: str, which: list[int]) -> bool:
        return any(e.get(kind) == which for e in self.entries)


def measure(folder: Path) -> Iterator[tuple[int, int]]:
    """Time what the kit in `folder` asks for and is not in its results yet. Yields (steps done, steps)."""
    try:
        kit = json.loads((folder / "kit.json").read_text("utf-8"))
        good = kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise _Fault(f"{folder / 'kit.json'}: was edited after the kit was made; copy the kit anew")
    models = (folder / "models.bin").read_bytes()
    if hashlib.sha256(models).hexdigest() != kit["models_sha256"]:
        raise _Fault(f"{folder / 'models.bin'}: is not the file that the kit was made with; copy the kit anew")
    name, threads = kit["runtime"], int(kit["threads"])
    try:
        fingerprint = this_cpu(name, version(PACKAGES[name]), threads)
    except PackageNotFoundError:
        raise _Fault(f"{PACKAGES[name]} is not installed here; pip install {PACKAGES[name]}") from None

    def opened(i: int) -> Run:
        m = kit["models"][i]
        model = fill(models[m["at"] : m["at"] + m["bytes"]], m["holes"], i)
        try:
            return OPEN[name](model, threads)
        except Exception as e:  # every runtime has exceptions of its own
            raise _Fault(f"{name} {fingerprint.runtime_version} cannot open a model of the kit ({e})") from None

    header = {"format": RESULTS, "kit": kit["id"], "fingerprint": fingerprint.as_dict()}
    results = _Results(folder / "results.jsonl", header, fingerprint)
    passes = [(c, p) for c in range(len(kit["chunks"])) for p in range(kit["passes"])]
    parts = [(p, g) for p in range(kit["parts"]) for g in range(len(kit["groups"]))]
    total, done = len(passes) + len(parts), 0
    anchor = opened(kit["reference"])
    for c, p in passes:
        if not results.has("pass", [c, p]):
            sessions = [opened(i) for i in kit["chunks"][c]]
            times, anchor_ms = time_layers(sessions, anchor, rounds=kit["rounds"], seed=c * kit["passes"] + p)
            results.add({"pass": [c, p], "anchor_ms": anchor_ms, "times": times})
            del sessions
        yield (done := done + 1), total
    for p, g in parts:
        if not results.has("part", [p, g]):
            group = kit["groups"][g]
            sessions = [opened(i) for i in [*group, kit["reference"]]]
            ms, drift = time_networks(
                sessions, anchor, rounds=kit["network_rounds"], seed=kit["parts"] * g + p,
                min_s=NETWORKS_S / len(kit["groups"]),
            )  # fmt: skip
            results.add({"part": [p, g], "reference_ms": ms[-1], "drift": drift, "ms": ms[:-1]})
            del sessions
        yield (done := done + 1), total
    if not any("end" in e for e in results.entries):
        results.add({"end": len(results.entries)})


def main() -> int:
    """`python run.py` in the kit's folder. 0 done, 2 something must be cured first."""
    folder = Path(__file__).resolve().parents[2]
    try:
        for done, total in measure(folder):
            print(f"{done}/{total}", file=sys.stderr, flush=True)  # noqa: T201
    except _Fault as e:
        print(f"error: {e}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as e:
        print(f"error: {e.filename or folder}: {e.strerror}; what was measured is kept", file=sys.stderr)  # noqa: T201
        return 2
    print(folder / "results.jsonl")  # noqa: T201
    return 0
