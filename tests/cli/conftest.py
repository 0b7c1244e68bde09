"""mbv3 in this process, and a small space for the real runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbv3.cli import main

Said = tuple[int, str, str]

SPACE = """\
format: mbv3-space/1
name: small
input: {resolution: 32}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [2, 3], k: [3, 5], se: [0, 1]}
  - {name: b, s: 2, out: 16, e: [2, 3, 4], k: [3, 5], l: [1, 2]}
head: {features: 16, classes: 4}
"""

SPEC = """\
format: mbv3-spec/1
name: small
input: {resolution: 32}
stem: {op: conv, k: 3, out: 8, nl: HS, s: 2}
rows:
  - {op: mbconv, k: 3, exp: 16, out: 8, se: 8, nl: RE, s: 1}
  - {op: mbconv, k: 5, exp: 24, out: 16, nl: HS, s: 2}
head: {type: classify, features: 16, nl: HS, dropout: 0.2, classes: 4}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is never touched."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MBV3_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return cache


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "small-space.yaml"
    file.write_text(SPACE)
    return file


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture
def mbv3(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`mbv3("show", SPEC)`: the command in this process; (exit code, stdout, stderr)."""

    def run(*args: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(a) for a in args])
        except SystemExit as e:
            code = int(e.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
