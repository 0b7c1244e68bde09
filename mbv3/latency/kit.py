"""A table for a device that can only run a copied folder: `write_kit` here, `python run.py` there, `import_kit` here.

A kit holds every model without its weights, which the device fills in at random: 343 layers and 60 networks take about
two megabytes. (int8 models keep theirs, a quarter of the size in float.) Python 3.10, numpy and the runtime are all
that the device needs.
"""

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
from mbv3.latency.runner import RESULTS, Told, kit_id
from mbv3.latency.runtime import MODELS, check_runtime
from mbv3.latency.sessions import KINDS
from mbv3.latency.table import LatencyTable
from mbv3.spec import parse_key, parse_spec

__all__ = ["import_kit", "kit_files", "parse_kit", "table_of_results", "write_kit"]

FORMAT = "mbv3-kit/4"
LEAST_HOLE = 16  # floats; what is smaller stays in the model
_TRAVEL = ("protocol.py", "sessions.py", "fingerprint.py", "conditions.py", "timers.py", "runner.py")
_RUN = """\
# python3 run.py: times the models of this folder into results.jsonl; after an interruption it goes on there.
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
A kit of mbv3-search. On the device (Linux, Android under Termux, macOS) whose latency you want to know:

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


def kit_files(
    plan: BuildPlan, runtime: str, threads: int, *, error: float = ERROR, minutes: float = MINUTES
) -> dict[str, bytes]:
    """The files of a kit by their names.

    Raises:
        BadInput: an unknown runtime, or LiteRT is not installed here, where its models are written.
    """
    check_runtime(runtime)
    if threads < 1:
        raise BadInput(f"--threads must be at least 1 (got {threads})")
    work = work_of(plan, error=error, minutes=minutes)
    bodies, models, at = [], [], 0
    specs = [*(spec for _, spec in plan.calibration), plan.reference]
    for whole in chain(map(MODELS[runtime].layer, dict.fromkeys(plan.keys)), map(MODELS[runtime].network, specs)):
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
        version, good = kit["format"], kit["id"] == kit_id(kit)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{source}: is not a kit; make one with: mbv3 latency kit --out kit.zip") from None
    if version != FORMAT:
        raise BadInput(f"{source}: is a kit of another version ({version!r}, not {FORMAT!r}); make the kit anew")
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
    told = Told(kit)
    try:
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
    except (ValueError, RecursionError) as e:
        raise BadInput(f"{source}: cannot be read as a kit's results ({e}); bring it back again") from None
    try:
        first = lines[0]
        if first["format"] != RESULTS:
            raise ValueError("is not of this version's format")
        if first["kit"] != kit["id"]:
            raise ValueError("is of another kit than the one given")
        fingerprint = Fingerprint(**first["fingerprint"])
        kind = KINDS[kit["runtime"]]
        for name, asked in (("runtime", kind.runtime), ("precision", kind.precision), ("threads", kit["threads"])):
            if getattr(fingerprint, name) != asked:
                raise ValueError(f"its {name} is {getattr(fingerprint, name)!r}, the kit's {asked!r}")
        for entry in lines[1:]:
            told.take(entry)
        if not told.ended:
            raise ValueError("its end is missing; run the kit again, it goes on where it stopped")
        keys = tuple(parse_key(k) for k in kit["keys"])
        specs = tuple((label, parse_spec(spec)) for label, spec in kit["networks"])
        about = {**kit["about"], "kit": kit["id"][:12]}
        plan = BuildPlan(keys, specs, parse_spec(kit["reference_spec"]), about)
        return table_of(plan, fingerprint, told, kit)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as e:
        raise BadInput(f"{source}: is not a results file of this kit ({e})") from None
