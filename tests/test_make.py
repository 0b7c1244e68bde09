"""make.py: it says what it installs before it does, and does nothing where that is done already."""

from __future__ import annotations

import importlib.util
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[1] / "make.py"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """make.py as a module, in a checkout without .venv; its commands are kept in `called` and not run."""
    spec = importlib.util.spec_from_file_location("make", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((FILE.parent / name).read_bytes())
    venv = tmp_path / ".venv"
    for name, value in (("ROOT", tmp_path), ("VENV", venv), ("BIN", venv / "bin"), ("called", [])):
        monkeypatch.setattr(module, name, value, raising=False)

    def run(command: list[str], check: bool) -> None:
        module.called.append(command)
        venv.mkdir(exist_ok=True)

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "call", lambda *command: module.called.append([str(c) for c in command]))
    return module


def test_it_says_what_it_will_do(make: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    make.environment("")
    said = capsys.readouterr().out
    assert said.startswith("make.py makes the virtual environment of this checkout:")
    assert str(make.VENV) in said and "GB free" in said and f"about {make.DISK_GB:g} GB" in said
    assert " matplotlib, numpy, " in said and "torch, and what they need" in said and ", pytest," not in said
    assert [c[2] for c in make.called] == ["venv", "pip"]
    make.environment("")  # done already: nothing is said, nothing is run
    assert capsys.readouterr().out == "" and len(make.called) == 2


def test_the_packages_are_those_of_the_project(make: ModuleType) -> None:
    assert {"torch", "scikit-learn", "PyYAML".lower()} <= set(make.packages(""))
    extra = set(make.packages("[dev]")) - set(make.packages(""))
    assert {"pytest", "ruff", "mypy", "ai-edge-litert"} <= extra


def test_changed_requirements_are_installed_again(make: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    make.environment("[dev]")
    (make.ROOT / "constraints.txt").write_text("torch==99\n")
    capsys.readouterr()
    make.environment("[dev]")
    assert capsys.readouterr().out.startswith("make.py updates the virtual environment")


def test_a_full_disk_is_refused_before_anything_is_made(make: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**9))
    with pytest.raises(SystemExit, match=r"about 1.7 GB are needed \(got 1.0 GB free\); free some space"):
        make.environment("")
    assert make.called == [] and not make.VENV.exists()
