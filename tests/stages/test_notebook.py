"""docs/notebook.md: every step of the chain in a few lines, run as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.md"
BLOCKS = re.findall(r"\*\*(\w[\w ]*)\*\*.*?```python\n(.*?)```", NOTEBOOK.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for i, name in enumerate(("cats", "dogs")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for n in range(12):
            pixels = rng.integers(0, 100, (40, 40, 3), dtype=np.uint8)
            pixels[..., i] += 150
            Image.fromarray(pixels).save(folder / f"{n}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_step_is_there_and_short() -> None:
    names = [name for name, _ in BLOCKS]
    assert names == ["The space and its latency", "Scale", "Judge", "Search", "Adapt", "Compare", "Learn", "Measure"]
    for name, code in BLOCKS:
        lines = [line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]
        assert len(lines) <= 5, f"{name} takes {len(lines)} lines"


def test_the_notebook_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells: dict[str, Any] = {}
    for name, code in BLOCKS:
        exec(compile(code, f"docs/notebook.md: {name}", "exec"), cells)
    assert cells["adapted"].reached and cells["adapted"].ms <= 20
    assert "times MobileNetV3-Large" in capsys.readouterr().out
