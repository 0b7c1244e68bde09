"""The house: an arrow only points down, a room is entered by its front door, light doors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mbv3"
# single files that every room may use
LIGHT = {"errors", "events", "files", "progress", "record", "typed_json", "version"}

# cli -> runs -> stages -> tables, tasks, search, netadapt, supernet, accuracy, export, report
# -> training, data, latency, nn, graph, space -> spec
# room: (rooms, third-party packages) that it may import
MAY: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "events": (set(), set()),
    "files": ({"errors"}, set()),
    "progress": ({"events"}, {"rich"}),
    "record": ({"errors", "files", "typed_json"}, set()),
    "typed_json": ({"errors"}, set()),
    "version": (set(), set()),
    "spec": (set(), {"yaml"}),
    "space": ({"spec"}, {"numpy"}),
    "accuracy": ({"spec", "space"}, {"numpy"}),
    "graph": ({"spec"}, {"numpy", "onnx", "ai_edge_litert", "flatbuffers"}),
    "latency": ({"spec", "graph"}, {"numpy", "scipy", "onnxruntime", "ai_edge_litert"}),
    "nn": ({"spec"}, {"torch"}),
    "data": ({"nn"}, {"torch", "PIL", "numpy", "safetensors"}),
    "training": ({"spec", "nn", "data"}, {"torch", "numpy", "safetensors", "sklearn", "pycocotools"}),
    "tables": ({"spec", "space", "latency"}, {"numpy"}),
    "supernet": ({"spec", "space", "nn", "data", "training"}, {"torch", "numpy"}),
    "search": ({"spec", "space"}, {"numpy", "pandas", "torch", "optuna"}),
    "netadapt": ({"spec", "nn"}, {"numpy", "torch"}),
    "export": ({"spec", "graph", "nn", "training"}, {"torch", "numpy", "onnx"}),
    "report": ({"spec"}, {"pandas", "matplotlib", "numpy"}),
    "pipeline": ({"export"}, set()),
    "tasks": ({"spec", "nn", "data", "training", "report"}, {"torch", "numpy", "PIL"}),
}
BELOW = set(MAY) - LIGHT
ABOVE = {"stages": BELOW, "runs": BELOW | {"stages"}, "cli": BELOW | {"stages", "runs"}}
# what a room imports beyond MAY, with the reason; an entry that is not used fails
EXTRA: dict[tuple[str, str], str] = {
    ("netadapt", "scipy"): "isotonic regression: noisy times made monotone in the channel count",
    ("search", "sqlalchemy"): "what Optuna's databases are written with; its own way asks ninety questions a network",
    ("search", "scipy"): "the linear programmes of the bound",
    ("export", "safetensors"): "converted state dicts",
    ("graph", "onnxruntime"): "its quantizer writes the int8 files, and ranges of activations are seen by running",
    ("export", "onnxruntime"): "what an int8 file answers, and how fast, decides what goes into it",
    ("export", "timm"): "an optional dependency: its networks by name, with the weights that it loads",
    ("export", "torchvision"): "likewise",
    ("tasks", "datasets"): "an optional dependency: data sets of the Hugging Face hub",
}
# scripts that fit the coefficients of a room, and so open its files
FITS = {"fit_imagenet_accuracy.py": "accuracy", "imagenet_fit.py": "accuracy", "imagenet_pairs.py": "accuracy"}
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


def side_doors(room: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of imports that enter another room by one of its files."""
    for node in ast.walk(ast.parse(text)):
        names: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        for module, name in names:
            parts = module.split(".")
            if parts[0] != "mbv3" or len(parts) < 2 or parts[1] == room:
                continue
            if len(parts) > 2:
                yield node.lineno, module
            elif name and (PACKAGE / parts[1] / f"{name}.py").exists() and name not in exported(parts[1]):
                yield node.lineno, f"{module}.{name}"


def exported(room: str) -> set[str]:
    """The names in `__all__` of a room."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def rings(graph: dict[str, set[str]]) -> set[str]:
    """The nodes of `graph` from which a path leads back to them."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for n in graph.get(left.pop(), set()) - seen:
                seen.add(n)
                left.append(n)
        return seen

    return {n for n in graph if n in reached(n)}


def files_of(room: str) -> dict[str, set[str]]:
    """Which files of a room, "spec" or "spec/kinds", import which others."""
    names = {p.stem for p in (PACKAGE / room).glob("*.py")} - {"__init__"}
    door = f"mbv3.{room.replace('/', '.')}"
    graph: dict[str, set[str]] = {}
    for name in names:
        text = (PACKAGE / room / f"{name}.py").read_text("utf-8")
        graph[name] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == door:
                graph[name] |= {alias.name for alias in node.names} & names
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{door}."):
                graph[name].add((node.module or "").removeprefix(f"{door}.").split(".")[0])
    return graph


ROOMS = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists())
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(p) for p in sources()} - {""}
    assert rooms <= set(MAY) | set(ABOVE) | {"__main__"}, "name what the new room may import"
    assert {"spec", "space", "graph", "nn", "latency"} <= rooms


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(path)
    if room in ("", "__main__"):
        pytest.skip("the package's own door is held by the tests below")
    assert wrong(room, path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", [*sources(), *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_entered_by_the_front_door(path: Path) -> None:
    room = room_of(path) if path not in SCRIPTS else FITS.get(path.name, "")
    found = [f"line {n}: {m}" for n, m in side_doors(room, path.read_text("utf-8"))]
    assert found == [], "import the name from the room itself; export it in its __init__.py"


@pytest.mark.parametrize("room", [*ROOMS, "spec/kinds"])
def test_no_ring_of_files_inside_a_room(room: str) -> None:
    assert rings(files_of(room)) == set()


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
        ("report", "from mbv3.runs import find"),
        ("tables", "from mbv3.search import make_reward"),
        ("tables", "import torch"),
        ("tasks", "from mbv3.runs import find"),
        ("stages", "from mbv3.runs import find"),
        ("runs", "from mbv3.cli import main"),
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
        ("cli", "from mbv3.runs import find"),
        ("stages", "import torch\nfrom mbv3.supernet import Supernet"),
        ("runs", "from mbv3.stages import scale"),
        ("tables", "from mbv3.record import Record"),
    ],
)
def test_a_right_arrow_is_not(room: str, text: str) -> None:
    assert wrong(room, text) == []


@pytest.mark.parametrize(
    ("room", "text", "module"),
    [
        ("space", "from mbv3.spec.rows import NL", "mbv3.spec.rows"),
        ("cli", "def f():\n    from mbv3.latency.table import LatencyTable", "mbv3.latency.table"),
        ("cli", "import mbv3.latency.table", "mbv3.latency.table"),
        ("cli", "from mbv3.latency import costmodel", "mbv3.latency.costmodel"),
    ],
)
def test_a_side_door_is_seen(room: str, text: str, module: str) -> None:
    assert [m for _, m in side_doors(room, text)] == [module]


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("latency", "from mbv3.latency.table import LatencyTable"),
        ("tables", "from mbv3.latency import transfer"),  # the function, although there is a file of that name
        ("cli", "import mbv3.latency, numpy.random"),
    ],
)
def test_a_front_door_is_not_a_side_door(room: str, text: str) -> None:
    assert list(side_doors(room, text)) == []


def test_a_ring_is_seen() -> None:
    assert rings({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}
    assert rings({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


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


@pytest.mark.parametrize("statement", ["import mbv3.latency", "import mbv3.tables"])
def test_a_prediction_from_a_table_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "numpy" in loaded and loaded & set(HEAVY) == set()


def test_heaviness_is_seen() -> None:
    assert "onnx" in loaded_by("import mbv3.graph")
