"""The shipped phones: what they claim is computed again."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mbv3.latency import LatencyTable, load_profile, profile_names
from mbv3.spec import load_spec, lower, reference_names

DATA = Path(__file__).resolve().parents[3] / "shared/data"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts/fit_phone_profiles.py"


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_estimates_every_layer_and_says_so(name: str, tmp_path: Path) -> None:
    table = load_profile(name)
    assert table.model is not None and not table.layers and table.about is not None and table.about["source"]
    assert np.isfinite(table.model.coefficients).all() and (table.model.coefficients >= 0).all()
    for network in reference_names():
        spec = load_spec(network)
        prediction = table.predict(spec, estimate=True)
        assert prediction.estimated == len(prediction.rows) == len(lower(spec))
    assert table.reference_ms == table.latency_ms(load_spec("mobilenet_v3_large"), estimate=True)
    table.save(tmp_path / "copy.csv")
    copy = LatencyTable.load(tmp_path / "copy.csv")
    assert copy.model is not None and copy.about == table.about and copy.fingerprint == table.fingerprint
    assert copy.predict(spec, estimate=True) == prediction
    assert copy.dumps() == table.dumps()


def test_whole_networks_on_a_pixel_1() -> None:
    """Howard 2019, Table 3, column P-1: within 15 % each, none of them used in the fit."""
    table = load_profile("pixel-1")
    claimed = (table.about or {})["networks"]
    paper = {n["network"]: n for n in claimed if n["published_in"].startswith("Howard 2019")}
    assert {"mobilenet_v3_large", "mobilenet_v3_small", "mnasnet_a1", "mobilenet_v2"} <= set(paper)
    assert all(abs(n["error"]) < 15 for n in paper.values())
    for said in claimed:
        predicted = table.latency_ms(load_spec(said["network"]), estimate=True)
        assert predicted == pytest.approx(said["predicted_ms"], abs=0.006)
        assert 100 * (predicted / said["published_ms"] - 1) == pytest.approx(said["error"], abs=0.06)


def test_the_note_10_times_blocks_as_published() -> None:
    """Rows of facts G3 at 224 px: 28x28 48->48 SE, 14x14 96->96 h-swish, k 3, 5, 7."""
    from mbv3.spec import LayerKey, MBConv, make_divisible

    table = load_profile("note-10")
    for (h, c, e, nl, se), times in {
        (28, 48, 3, "RE", True): (1.065, 1.429, 1.943), (14, 96, 6, "HS", False): (1.784, 2.123, 2.579),
    }.items():  # fmt: skip
        for k, ms in zip((3, 5, 7), times, strict=True):
            row = MBConv(
                k=k, s=1, exp=e * c, out=c, se=make_divisible(e * c / 4) if se else 0,
                nl="HS" if nl == "HS" else "RE", skip="identity",
            )  # fmt: skip
            assert table.hot_ms(LayerKey(row, c, h, h), estimate=True) == pytest.approx(ms, rel=0.15)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published tables are not beside the repository")
def test_the_script_writes_what_is_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.util.spec_from_file_location("fit_phone_profiles", SCRIPT)
    assert module is not None and module.loader is not None
    script = importlib.util.module_from_spec(module)
    module.loader.exec_module(script)
    shipped = script.OUT
    monkeypatch.setattr(script, "OUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["fit", str(DATA)])
    script.main()
    for name in profile_names():
        assert (tmp_path / f"{name}.yaml").read_text("utf-8") == (shipped / f"{name}.yaml").read_text("utf-8")
