"""A table for a device that can only run a copied folder: `write_kit` here, `python run.py` there, `import_kit` here.

A kit holds every model without its weights, which the device fills in at random: 171 layers and 37 networks take about
one megabyte. Python 3.10, numpy and the runtime are all that the device needs.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput
from mbv3.files import write_atomic
from mbv3.latency.build import BuildPlan, assemble, mixed
from mbv3.latency.device import Measured, chunks, layers_timed, network_groups
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.runner import RESULTS, kit_id
from mbv3.latency.runtime import MODELS, check_runtime
from mbv3.latency.sessions import PACKAGES
from mbv3.latency.table import LatencyTable, Timed, positive_ms
from mbv3.spec import LayerKey, dump_spec, parse_key, parse_spec

__all__ = ["import_kit", "kit_files", "parse_kit", "table_of_results", "write_kit"]

FORMAT = "mbv3-kit/1"
PASSES, ROUNDS = 3, 3
PARTS, NETWORK_ROUNDS = 8, 3
LEAST_HOLE = 16  # floats; what is smaller stays in the model
_TRAVEL = ("protocol.py", "sessions.py", "fingerprint.py", "runner.py")
_RUN = """\
# python3 run.py: times the models of this folder into results.jsonl; after an interruption it goes on there.
from mbv3.latency.runner import main

raise SystemExit(main())
"""
_README = """\
A kit of mbv3-search. On the device whose latency you want to know:

    pip install numpy {package}
    python3 run.py

It writes results.jsonl (and goes on there after an interruption). Bring that file back and run, where the kit was made:

    mbv3 latency import KIT results.jsonl --out table.csv
"""


# ---- models without weights ----------------------------------------------------------------------------------


def _strip(model: bytes, runtime: str) -> tuple[bytes, list[list[float]]]:
    """The model without its weights, and its holes: (place in what is left, floats, their standard deviation)."""
    parts, holes, at, left = [], [], 0, 0
    for place, values in sorted(MODELS[runtime].weights(model), key=lambda w: w[0]):
        if len(values) < LEAST_HOLE:
            continue
        parts.append(model[at:place])
        left += place - at
        holes.append([left, len(values), round(float(values.std()), 6)])
        at = place + 4 * len(values)
    return b"".join([*parts, model[at:]]), holes


# ---- out -----------------------------------------------------------------------------------------------------


def kit_files(plan: BuildPlan, runtime: str, threads: int) -> dict[str, bytes]:
    """The files of a kit by their names.

    Raises:
        BadInput: an unknown runtime, or LiteRT is not installed here, where its models are written.
    """
    check_runtime(runtime)
    if threads < 1:
        raise BadInput(f"--threads must be at least 1 (got {threads})")
    keys = list(dict.fromkeys(plan.keys))
    bodies, models, at = [], [], 0
    specs = [*(spec for _, spec in plan.calibration), plan.reference]
    for whole in chain(map(MODELS[runtime].layer, keys), map(MODELS[runtime].network, specs)):
        body, holes = _strip(whole, runtime)
        bodies.append(body)
        models.append({"at": at, "bytes": len(body), "holes": holes})
        at += len(body)
    data = b"".join(bodies)
    index = {k: i for i, k in enumerate(keys)}
    kit: dict[str, Any] = {
        "format": FORMAT,
        "runtime": runtime,
        "threads": threads,
        "passes": PASSES,
        "rounds": ROUNDS,
        "parts": PARTS,
        "network_rounds": NETWORK_ROUNDS,
        "chunks": [[index[k] for k in chunk] for chunk in chunks(mixed(keys))],
        "groups": [[len(keys) + i for i in group] for group in network_groups([s for _, s in plan.calibration])],
        "reference": len(models) - 1,
        "models_sha256": hashlib.sha256(data).hexdigest(),
        "models": models,
        "keys": [str(k) for k in keys],
        "networks": [[label, dump_spec(spec)] for label, spec in plan.calibration],
        "reference_spec": dump_spec(plan.reference),
        "about": dict(plan.about),
    }
    here = resources.files("mbv3.latency")
    code = {f"mbv3/latency/{name}": (here / name).read_bytes() for name in _TRAVEL}
    kit["code_sha256"] = hashlib.sha256(b"".join(code.values())).hexdigest()
    kit["id"] = kit_id(kit)
    return {
        "run.py": _RUN.encode(),
        "README.txt": _README.format(package=PACKAGES[runtime]).encode(),
        "kit.json": json.dumps(kit).encode(),
        "models.bin": data,
        "mbv3/__init__.py": b"",
        "mbv3/latency/__init__.py": b"",
        **code,
    }


def write_kit(files: Mapping[str, bytes], path: Path) -> None:
    """A kit as a folder, or as a zip where `path` ends so.

    Raises:
        BadInput: `path` is there already, or cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path} exists; give another --out, or remove it")
    if path.suffix == ".zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
            for name, content in files.items():
                z.writestr(f"{path.stem}/{name}", content)
        write_atomic(path, packed.getvalue())
        return
    for name, content in files.items():
        write_atomic(path / name, content)


# ---- back ----------------------------------------------------------------------------------------------------


def parse_kit(text: str | bytes, source: str) -> dict[str, Any]:
    """The content of kit.json. Raises: BadInput."""
    try:
        kit = json.loads(text)
        good = kit["format"] == FORMAT and kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{source}: is not a kit; make one with: mbv3 latency kit --out kit.zip") from None
    if not good:
        raise BadInput(f"{source}: its kit.json was edited after it was made; make the kit anew")
    return dict(kit)


def _read_kit(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            return parse_kit((path / "kit.json").read_bytes(), str(path))
        with zipfile.ZipFile(path) as z:
            [name] = [n for n in z.namelist() if n.endswith("/kit.json")]
            return parse_kit(z.read(name), str(path))
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):  # encrypted, or corrupt
        raise BadInput(f"{path}: is not a kit's folder or zip; make one with: mbv3 latency kit --out kit.zip") from None


def _positive(value: Any, what: str) -> float:
    if type(value) in (int, float):
        with suppress(ValueError):
            return positive_ms(value)
    raise ValueError(f"{what} is {value!r}, not a time in ms")


class _Told:
    """What a results file says, checked."""

    def __init__(self, kit: Mapping[str, Any], lines: list[Any]) -> None:
        header = lines[0]
        if header["format"] != RESULTS:
            raise ValueError("its first line is not that of a results file")
        if header["kit"] != kit["id"]:
            raise ValueError("it is of another kit than the one given")
        self.fingerprint = Fingerprint(**header["fingerprint"])
        for name in ("runtime", "threads"):
            if getattr(self.fingerprint, name) != kit[name]:
                raise ValueError(f"its {name} is {getattr(self.fingerprint, name)!r}, the kit's {kit[name]!r}")
        self.passes: dict[tuple[int, int], tuple[list[list[float]], float]] = {}
        self.parts: dict[tuple[int, int], tuple[list[float], float]] = {}
        self.drift = 0.0
        for n, entry in enumerate(lines[1:], 2):
            if "pass" in entry:
                self._pass(kit, entry)
            elif "part" in entry:
                self._part(kit, entry)
            elif entry.get("end") != n - 1 or n != len(lines):
                raise ValueError(f"line {n} does not belong there")
        missing = len(kit["chunks"]) * kit["passes"] + len(kit["groups"]) * kit["parts"]
        missing -= len(self.passes) + len(self.parts)
        if missing or "end" not in lines[-1]:
            raise ValueError(f"{missing} of its steps are missing; run the kit again, it goes on where it stopped")

    def _new(self, seen: Mapping[tuple[int, int], Any], which: Any, most: tuple[int, int]) -> tuple[int, int]:
        a, b = which
        if not (type(a) is type(b) is int and 0 <= a < most[0] and 0 <= b < most[1]):
            raise ValueError(f"there is no step {which}")
        if (a, b) in seen:
            raise ValueError(f"step {which} is there twice")
        return a, b

    def _pass(self, kit: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        which = self._new(self.passes, entry["pass"], (len(kit["chunks"]), kit["passes"]))
        chunk = kit["chunks"][which[0]]
        if len(entry["times"]) != len(chunk) or not all(entry["times"]):
            raise ValueError(f"pass {which} has rows missing or too many")
        times = [[_positive(t, f"{kit['keys'][i]}") for t in row] for i, row in zip(chunk, entry["times"], strict=True)]
        self.passes[which] = times, _positive(entry["anchor_ms"], "the reference")

    def _part(self, kit: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        which = self._new(self.parts, entry["part"], (kit["parts"], len(kit["groups"])))
        group = kit["groups"][which[1]]
        if len(entry["ms"]) != len(group):
            raise ValueError(f"part {which} has networks missing or too many")
        ms = [_positive(t, kit["networks"][i - len(kit["keys"])][0]) for i, t in zip(group, entry["ms"], strict=True)]
        self.parts[which] = ms, _positive(entry["reference_ms"], "the reference")
        drift = float(entry["drift"])
        if not (math.isfinite(drift) and drift >= 0):
            raise ValueError(f"the drift of part {which} is {drift}")
        self.drift = max(self.drift, drift)


def import_kit(kit_path: Path, results: Path) -> LatencyTable:
    """The table that a device measured.

    Raises:
        BadInput: not a kit, an edited one, or results of another kit, incomplete, or with times that cannot be.
    """
    kit = _read_kit(kit_path)
    try:
        text = results.read_text("utf-8")
    except FileNotFoundError:
        raise BadInput(f"{results}: no such results file; bring results.jsonl back from the device") from None
    except (OSError, ValueError) as e:
        raise BadInput(f"{results}: cannot be read as a kit's results ({e}); bring it back again") from None
    return table_of_results(kit, text, str(results))


def table_of_results(kit: Mapping[str, Any], text: str, source: str) -> LatencyTable:
    """The table from the text of results.jsonl. Raises: BadInput."""
    try:
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
    except (ValueError, RecursionError) as e:
        raise BadInput(f"{source}: cannot be read as a kit's results ({e}); bring it back again") from None
    try:
        told = _Told(kit, lines)
        reference = [now for _, now in told.parts.values()]
        reference_ms = sum(reference) / len(reference)
        keys = [parse_key(k) for k in kit["keys"]]
        rows: dict[LayerKey, Timed] = {}
        for c, chunk in enumerate(kit["chunks"]):
            passes = [told.passes[c, p] for p in range(kit["passes"])]
            rows |= layers_timed([keys[i] for i in chunk], passes, reference_ms)
        specs = [(label, parse_spec(spec)) for label, spec in kit["networks"]]
        times = np.empty((kit["parts"], len(specs)))
        for (p, g), (ms, now) in told.parts.items():
            times[p, np.array(kit["groups"][g], dtype=int) - len(keys)] = np.array(ms) / now * reference_ms
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise BadInput(f"{source}: is not a results file of this kit ({e})") from None
    measured = Measured.of(times.tolist(), reference, told.drift)
    about = {**kit["about"], "kit": kit["id"][:12]}
    plan = BuildPlan(tuple(keys), tuple(specs), parse_spec(kit["reference_spec"]), about)
    return assemble(plan, told.fingerprint, reference_ms, rows, measured)
