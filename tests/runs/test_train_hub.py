"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec

from .training import run


@pytest.mark.filterwarnings("ignore")  # of the library, which hashes with dill
def test_a_hugging_face_data_set(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["green", "red/dark", "red?dark"])}
    )
    parts = {}
    for part in ("train", "test"):
        files = sorted((classes / part).rglob("*.png"))
        rows = {"img": [str(f) for f in files], "fine": [int(f.parent.name == "red") for f in files]}
        if part == "test":
            rows["fine"][0] = -1  # as truth that is kept back is written
        # with a fingerprint of its own: the library would hash the table, which not every pair of its versions can
        table = datasets.table.InMemoryTable.from_pydict(rows)
        parts[part] = datasets.Dataset(table, fingerprint=part).cast(features)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    result, said = run(tiny_spec, data=f"hf:{tmp_path / 'saved'}", out=tmp_path / "o", epochs=1.0, batch=8)
    assert result.record.classes == ("0 green", "1 red_dark") and result.n == 15
    assert "1 test images have no label and are left out" in said
    assert not (tmp_path / "o/images").exists() and any("46 images of 2 classes" in t for t in said)


def test_without_the_library_the_hub_is_refused(
    tiny_spec: ArchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"--data hf:beans: needs the library datasets: pip install"):
        run(tiny_spec, data="hf:beans", out=tmp_path / "o")
    with pytest.raises(BadInput, match=r"--data hf:NAME is for --task classify"):
        run(tiny_spec, data="hf:beans", task="detect", out=tmp_path / "o")
