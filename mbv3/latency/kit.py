"""A table for a device that can only run a copied folder: `write_kit` here, `python run.py` there, `import_kit` here.

A kit holds every model without its weights; the device replaces them by random ones. So 343 layers and 60 networks take
about two megabytes. (int8 models keep their weights, a quarter of the size in float.) The device needs Python 3.10,
numpy and the runtime."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.files import write_atomic
from mbv3.latency.build import ERROR, MINUTES, BuildPlan, table_of, work_of
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.runner import RESULTS, Measurements, kit_id
from mbv3.latency.runtime import check_portable, models_of
from mbv3.latency.sessions import KINDS
from mbv3.latency.table import LatencyTable
from mbv3.spec import parse_key, parse_spec

__all__ = ["import_kit", "kit_files", "parse_kit", "table_of_results", "write_kit"]

FORMAT = "mbv3-kit/4"
LEAST_HOLE = 16  # floats; smaller tensors stay in the model
_TRAVEL = ("protocol.py", "sessions.py", "fingerprint.py", "conditions.py", "timers.py", "runner.py")
_RUN = """\
# python3 run.py: times the models of this folder into results.jsonl; after an interruption it continues there.
import sys

if sys.version_info < (3, 10):
    print("error: this is Python %d.%d; run it with Python 3.10 or newer" % sys.version_info[:2])
    sys.exit(2)
try:
    import numpy
except ImportError:
    print("error: numpy is not installed for this Python; python3 -m pip install numpy {package}")
    sys.exit(2)
from mbv3.latency.runner import main

sys.exit(main())
"""
_README = """\
A kit of mbv3-search. On the device that you want to measure (Linux, Android with Termux, macOS) run:

    pip install numpy {package}
    python3 run.py

It writes results.jsonl, and continues there after an interruption. Copy that file back and run, where the kit was made:

    mbv3 latency import KIT results.jsonl --out table.csv
"""


# ---- models without weights ----------------------------------------------------------------------------------


def _strip(model: bytes, runtime: str) -> tuple[bytes, list[list[float]]]:
    """The model without its weights, and its holes: (offset in the shorter model, number of floats, their
    deviation)."""
    parts, holes, at, left = [], [], 0, 0
    for place, values in sorted(models_of(runtime).weights(model), key=lambda w: w[0]):
        if len(values) < LEAST_HOLE:
            continue
        parts.append(model[at:place])
        left += place - at
        holes.append([left, len(values), round(float(values.std()), 6)])
        at = place + 4 * len(values)
    return b"".join([*parts, model[at:]]), holes


# ---- writing -----------------------------------------------------------------------------------------------------


def kit_files(
    plan: BuildPlan, runtime: str, threads: int, *, error: float = ERROR, minutes: float = MINUTES
) -> dict[str, bytes]:
    """The files of a kit by name.

    Raises:
        BadInput: an unknown runtime, a registered one, or LiteRT is not installed on this machine.
    """
    check_portable(runtime)
    if threads < 1:
        raise BadInput(f"--threads must be at least 1 (got {threads})")
    work = work_of(plan, error=error, minutes=minutes)
    write = models_of(runtime)
    bodies, models, at = [], [], 0
    specs = [*(spec for _, spec in plan.calibration), plan.reference]
    for whole in chain(map(write.layer, dict.fromkeys(plan.keys)), map(write.network, specs)):
        body, holes = _strip(whole, runtime)
        bodies.append(body)
        models.append({"at": at, "bytes": len(body), "holes": holes})
        at += len(body)
    data = b"".join(bodies)
    kit: dict[str, Any] = {
        "format": FORMAT,
        "runtime": runtime,
        "threads": threads,
        "models_sha256": hashlib.sha256(data).hexdigest(),
        "models": models,
        **work,
    }
    here = resources.files("mbv3.latency")
    code = {f"mbv3/latency/{name}": (here / name).read_bytes() for name in _TRAVEL}
    kit["code_sha256"] = {name: hashlib.sha256(text).hexdigest() for name, text in code.items()}
    kit["id"] = kit_id(kit)
    return {
        "run.py": _RUN.replace("{package}", KINDS[runtime].package).encode(),
        "README.txt": _README.format(package=KINDS[runtime].package).encode(),
        "kit.json": json.dumps(kit).encode(),
        "models.bin": data,
        "mbv3/__init__.py": b"",
        "mbv3/latency/__init__.py": b"",
        **code,
    }


def write_kit(files: Mapping[str, bytes], path: Path) -> None:
    """Write a kit as a folder, or as a zip file where `path` ends in .zip.

    Raises:
        BadInput: `path` exists, or cannot be written.
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


# ---- reading ----------------------------------------------------------------------------------------------------


def parse_kit(text: str | bytes, source: str) -> dict[str, Any]:
    """The content of kit.json. Raises: BadInput."""
    try:
        kit = json.loads(text)
        version, good = kit["format"], kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{source}: is not a kit; make one with: mbv3 latency kit --out kit.zip") from None
    if version != FORMAT:
        raise BadInput(f"{source}: is a kit of another format ({version!r}, not {FORMAT!r}); make the kit again")
    if not good:
        raise BadInput(f"{source}: its kit.json was edited after it was made; make the kit again")
    return dict(kit)


def _read_kit(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            return parse_kit((path / "kit.json").read_bytes(), str(path))
        with zipfile.ZipFile(path) as z:
            [name] = [n for n in z.namelist() if n.endswith("/kit.json")]
            return parse_kit(z.read(name), str(path))
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):  # encrypted, or corrupt
        raise BadInput(
            f"{path}: is not the folder or zip file of a kit; make one with: mbv3 latency kit --out kit.zip"
        ) from None


def import_kit(kit_path: Path, results: Path) -> LatencyTable:
    """The table that a device measured.

    Raises:
        BadInput: not a kit, or an edited one; the results are of another kit, incomplete, or have impossible times.
    """
    kit = _read_kit(kit_path)
    try:
        text = results.read_text("utf-8")
    except FileNotFoundError:
        raise BadInput(f"{results}: no such results file; copy results.jsonl back from the device") from None
    except (OSError, ValueError) as e:
        raise BadInput(
            f"{results}: cannot be read as the results of a kit ({e}); copy it from the device again"
        ) from None
    return table_of_results(kit, text, str(results))


def table_of_results(kit: Mapping[str, Any], text: str, source: str) -> LatencyTable:
    """The table from the text of results.jsonl. Raises: BadInput."""
    measured = Measurements(kit)
    try:
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
    except (ValueError, RecursionError) as e:
        raise BadInput(
            f"{source}: cannot be read as the results of a kit ({e}); copy it from the device again"
        ) from None
    try:
        first = lines[0]
        if first["format"] != RESULTS:
            raise ValueError(f"its format is {first['format']!r}, not {RESULTS!r}")
        if first["kit"] != kit["id"]:
            raise ValueError("it belongs to another kit")
        fingerprint = Fingerprint(**first["fingerprint"])
        kind = KINDS[kit["runtime"]]
        for name, expected in (("runtime", kind.runtime), ("precision", kind.precision), ("threads", kit["threads"])):
            if getattr(fingerprint, name) != expected:
                raise ValueError(f"its {name} is {getattr(fingerprint, name)!r}, that of the kit {expected!r}")
        for entry in lines[1:]:
            measured.add(entry)
        if not measured.ended:
            raise ValueError("its end is missing; run the kit again, it continues where it stopped")
        keys = tuple(parse_key(k) for k in kit["keys"])
        specs = tuple((label, parse_spec(spec)) for label, spec in kit["networks"])
        about = {**kit["about"], "kit": kit["id"][:12]}
        plan = BuildPlan(keys, specs, parse_spec(kit["reference_spec"]), about)
        return table_of(plan, fingerprint, measured, kit)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as e:
        raise BadInput(f"{source}: is not a results file of this kit ({e})") from None
