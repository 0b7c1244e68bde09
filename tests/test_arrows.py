"""The house: an arrow only points down (design.md, `room may import`), and light doors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mbv3"
LIGHT = {"errors", "events", "files"}  # single files that every room may use

# room: (rooms, third-party packages) that it may import
MAY: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "events": (set(), set()),
    "files": ({"errors"}, set()),
    "spec": (set(), {"yaml"}),
    "space": ({"spec"}, {"numpy"}),
    "accuracy": ({"spec", "space"}, {"numpy"}),
    "graph": ({"spec"}, {"numpy", "onnx", "ai_edge_litert", "flatbuffers"}),
    "latency": ({"spec", "graph"}, {"numpy", "pandas", "scipy", "onnxruntime", "ai_edge_litert"}),
    "nn": ({"spec"}, {"torch"}),
    "data": ({"nn"}, {"torch", "PIL", "numpy", "safetensors"}),
    "training": ({"spec", "nn", "data"}, {"torch", "numpy", "safetensors", "sklearn", "pycocotools"}),
    "supernet": ({"spec", "space", "nn", "data", "training"}, {"torch", "numpy"}),
    "search": ({"spec", "space"}, {"numpy", "pandas", "torch", "optuna"}),
    "netadapt": ({"spec", "nn"}, {"numpy", "torch"}),
    "export": ({"spec", "graph", "nn"}, {"torch", "numpy", "onnx"}),
    "report": ({"spec"}, {"pandas", "matplotlib", "numpy"}),
}
BELOW = set(MAY) - LIGHT
ABOVE = {"pipeline": BELOW, "cli": BELOW | {"pipeline"}}
# what a room imports beyond the table of design.md, with its reason; an entry without use fails
EXTRA: dict[tuple[str, str], str] = {
    ("netadapt", "scipy"): "isotonic regression: noisy times made monotone in the channel count",
    ("export", "safetensors"): "converted state dicts",
    ("graph", "onnxruntime"): "its quantizer writes the int8 files",
    ("cli", "rich"): "progress bars, which are drawn nowhere else",
    ("pipeline", "datasets"): "an extra: data sets of the Hugging Face hub",
}
HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "optuna", "matplotlib", "scipy", "ai_edge_litert")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """`spec` for mbv3/spec/rows.py, `files` for mbv3/files.py, `` for mbv3/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py").removesuffix("__init__")


def imports(text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, those inside functions and type-checking blocks too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            elif node.module == "mbv3":
                yield from ((node.lineno, f"mbv3.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def wrong(room: str, text: str, used: set[tuple[str, str]] | None = None) -> list[str]:
    """What a source of `room` imports and may not."""
    found = []
    for line, module in imports(text):
        top, _, rest = module.partition(".")
        if not top:
            found.append(f"line {line}: write the relative import {module} in full")
            continue
        if top == "mbv3":
            target = rest.partition(".")[0]
            may = MAY[room][0] if room in MAY else ABOVE[room]
            ok = (
                target == room
                or target.startswith("__")
                or target in may | (LIGHT - {room} if room not in LIGHT else set())
            )
        else:
            target = top
            own = MAY[room][1] if room in MAY else set().union(*(third for _, third in MAY.values()))
            ok = top in sys.stdlib_module_names or top in own
        if not ok and (room, target) in EXTRA:
            ok = True
            if used is not None:
                used.add((room, target))
        if not ok:
            found.append(f"line {line}: {room} may not import {module}")
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(p) for p in sources()} - {""}
    assert rooms <= set(MAY) | set(ABOVE) | {"__main__", "py.typed"}, "name what the new room may import"
    assert {"spec", "space", "graph", "nn", "latency"} <= rooms


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(path)
    if room in ("", "__main__"):
        pytest.skip("the package's own door is held by the tests below")
    assert wrong(room, path.read_text("utf-8")) == []


def test_no_exception_is_stale() -> None:
    used: set[tuple[str, str]] = set()
    for path in sources():
        if room_of(path) in MAY | ABOVE:
            wrong(room_of(path), path.read_text("utf-8"), used)
    assert used == set(EXTRA)


def test_the_table_itself_has_no_ring() -> None:
    done: set[str] = set()
    left = {room: may for room, (may, _) in MAY.items()}
    while left:
        free = {room for room, may in left.items() if may <= done}
        assert free, f"a ring among {sorted(left)}"
        done |= free
        left = {room: may for room, may in left.items() if room not in free}


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("spec", "import numpy"),
        ("spec", "from mbv3.space import load_space"),
        ("space", "from mbv3.nn import build"),
        ("space", "from mbv3 import nn"),
        ("space", "def f():\n    import torch"),
        ("graph", "from mbv3.latency import p10"),
        ("graph", "from mbv3.space.model import SearchSpace"),
        ("nn", "import onnx.helper"),
        ("latency", "import torch"),
        ("latency", "from mbv3.space import layer_keys"),
        ("search", "from mbv3.latency import LatencyTable"),
        ("netadapt", "from mbv3.latency import LatencyTable"),
        ("netadapt", "from mbv3.search import make_reward"),
        ("report", "from mbv3.pipeline import find"),
        ("pipeline", "from mbv3.cli import main"),
        ("errors", "from mbv3.events import Event"),
        ("files", "from mbv3.spec import ArchSpec"),
        ("spec", "from . import rows"),
    ],
)
def test_a_wrong_arrow_is_seen(room: str, text: str) -> None:
    assert wrong(room, text)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("latency", "import fcntl\nfrom mbv3.graph import layer_model\nfrom mbv3.files import write_atomic"),
        ("search", "from mbv3 import errors, space\nimport optuna"),
        ("cli", "from mbv3.pipeline import find"),
        ("pipeline", "import torch\nfrom mbv3.supernet import Supernet"),
    ],
)
def test_a_right_arrow_is_not(room: str, text: str) -> None:
    assert wrong(room, text) == []


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import mbv3",
        "import mbv3.spec",
        "import mbv3.errors, mbv3.events, mbv3.files",
        "import mbv3.space",
        "import mbv3.accuracy",
    ],
)
def test_light_doors_load_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "mbv3" in loaded
    assert loaded & set(HEAVY) == set()


def test_the_tables_door_needs_no_torch() -> None:
    assert "torch" not in loaded_by("import mbv3.latency")


def test_heaviness_is_seen() -> None:
    assert "onnx" in loaded_by("import mbv3.graph")
