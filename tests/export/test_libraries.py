"""timm's and torchvision's networks by name: by their own loaders, from a cache laid out as theirs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mbv3.errors import BadInput
from mbv3.export import library_network, loaded, read_module, recognise
from mbv3.export.arch_strings import block_strings, spec_of_strings
from mbv3.export.timm import arch_def
from mbv3.runs import import_from
from mbv3.spec import UIB, Conv, MBConv, load_spec
from tests.moved import moved

SIZE = (64, 64)


def parity(net: torch.nn.Module, name: str) -> Any:
    """The spec; its network answers like `net`."""
    back = recognise(read_module(net, SIZE, name), name, name)
    x = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want, got = net(x), loaded(back.spec, back.state)(x)
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5
    assert back.folded == ()
    return back.spec


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2", "mnasnet0_5", "efficientnet_b0"])
def test_torchvisions_networks_as_specs(torchvision: Any, name: str) -> None:
    spec = parity(moved(torchvision.models.get_model(name, weights=None, num_classes=12)), name)
    if name in ("mobilenet_v3_small", "mobilenet_v2"):
        ours = load_spec(name)
        assert (spec.stem, spec.rows, spec.tail, spec.bn_eps) == (ours.stem, ours.rows, ours.tail, ours.bn_eps)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_100", "tf_mobilenetv3_small_minimal_100", "tf_efficientnet_lite0", "mobilenetv4_conv_small",
     "lcnet_050", "mobilenetv1_100", "semnasnet_075", "fbnetc_100"],
)  # fmt: skip
def test_timms_networks_as_specs(torchvision: Any, name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm cannot be imported here")
    spec = parity(moved(timm.create_model(name, num_classes=12)), name)
    assert spec.padding == ("tensorflow" if name.startswith("tf_") else "both")
    assert spec.bn_eps == (1e-3 if name.startswith("tf_") else 1e-5)


def test_a_network_of_another_kind_names_its_layer(torchvision: Any) -> None:
    with pytest.raises(
        BadInput, match=r"resnet18: layer maxpool, max_pool2d: this operator is not expressed by a spec"
    ):
        parity(torchvision.models.resnet18(weights=None).eval(), "resnet18")


# ---- with weights, from a cache ------------------------------------------------------------------------------


def test_torchvisions_weights_come_from_its_cache(
    torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch hub keeps a file under the last part of its address, and takes it without asking anybody."""
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = tmp_path / "torch" / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    theirs = moved(torchvision.models.mobilenet_v3_small(weights=None))
    torch.save(theirs.state_dict(), place)
    result = import_from("torchvision:mobilenet_v3_small", out=tmp_path / "out", resolution="64")
    assert result.checked is not None and result.checked.relative < 1e-4 and result.checked.by == "torch"
    assert "IMAGENET1K_V1" in result.notes[0] and len(result.labels) == 1000 and result.labels[0] == "tench"
    assert torch.equal(read(tmp_path / "out")["stem.conv.weight"], theirs.state_dict()["features.0.0.weight"])
    with pytest.raises(BadInput, match="its weights are IMAGENET1K_V1"):
        library_network("torchvision", "mobilenet_v3_small.IMAGENET1K_V9")


def read(folder: Path) -> dict[str, torch.Tensor]:
    from mbv3.training import read_weights

    return read_weights(folder / "weights.safetensors")


def test_timms_weights_come_from_its_cache(torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face hub keeps a snapshot under the name of the repository."""
    pytest.importorskip("timm", reason="timm cannot be imported here")
    try:
        from huggingface_hub import constants, hf_hub_download
    except ImportError as e:
        pytest.skip(f"the hub's client cannot be imported here: {e}")
    assert callable(hf_hub_download)
    import timm

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    name, commit = "mobilenetv3_small_050", "0" * 40
    config = timm.get_pretrained_cfg(name)
    repository = tmp_path / f"models--{config.hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    theirs = moved(timm.create_model(name))
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": name}))
    result = import_from(f"timm:{name}", out=tmp_path / "out", resolution="64")
    assert result.checked is not None and result.checked.relative < 1e-4
    assert result.spec.mean == tuple(config.mean) and result.spec.std == tuple(config.std)
    assert torch.equal(read(tmp_path / "out")["stem.conv.weight"], theirs.state_dict()["conv_stem.weight"])
    with pytest.raises(BadInput, match=r"timm:mobilenetv3_small_075: timm cannot load these weights .*cache"):
        import_from("timm:mobilenetv3_small_075", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_not_there(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadInput, match=rf"{library} is not installed .*pip install 'mbv3-search\[{library}\]'"):
        import_from(f"{library}:mobilenet_v3_small", out=tmp_path / "out")


def test_a_library_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(BadInput, match=r"timm is installed but cannot be loaded .operator nms does not exist"):
        library_network("timm", "mobilenetv3_small_100")


class FakeTimm(ModuleType):
    """What of timm is asked for."""

    def __init__(self, has_weights: bool = True) -> None:
        super().__init__("timm")
        self.has_weights = has_weights

    def list_models(self) -> list[str]:
        return ["mobilenetv3_small_100", "tiny"]

    def get_pretrained_cfg(self, name: str) -> Any:
        return type("Config", (), {"has_weights": self.has_weights})()

    def create_model(self, name: str, pretrained: bool) -> torch.nn.Module:
        from torch import nn

        if pretrained and name.endswith(".gone"):
            raise OSError("no connection")
        torch.manual_seed(0)
        net: Any = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8),
            nn.ReLU6(), nn.Conv2d(8, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
        )  # fmt: skip
        net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 32, 32), "tag": "t1"}
        return net  # type: ignore[no-any-return]


def test_without_the_library_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same road over a stand-in: names, weights that are there or not, mean and deviation, size."""
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    result = import_from("timm:tiny", out=tmp_path / "tiny")
    assert result.spec.resolution == (32, 32) and result.spec.mean == (0.5,) * 3 and result.spec.head.classes == 5
    assert result.notes[0] == "timm:tiny: weights t1"
    assert result.checked is not None and result.checked.relative < 1e-5
    only = import_from("timm:tiny", out=tmp_path / "only", spec_only=True)
    assert [file.name for file in only.files] == ["network.yaml"] and only.checked is None
    with pytest.raises(BadInput, match="timm has no network of this name; there is mobilenetv3_small_100"):
        library_network("timm", "mobilenetv3_smal_100")
    with pytest.raises(BadInput, match=r"timm cannot load these weights .no connection.; without a connection"):
        library_network("timm", "tiny.gone")
    monkeypatch.setitem(sys.modules, "timm", FakeTimm(has_weights=False))
    with pytest.raises(BadInput, match="timm has no weights of it; --spec-only"):
        library_network("timm", "tiny")
    assert library_network("timm", "tiny", weights=False).tag == ""


# ---- strings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v3_large@0.75"])
def test_the_strings_that_we_export_come_back(name: str) -> None:
    was = load_spec(name)
    strings = [text for stage in arch_def(was)[0] for text in stage]
    back = spec_of_strings(strings, name, stem=was.stem.out, features=was.head.features)  # type: ignore[union-attr]
    assert (back.stem, back.rows, back.tail) == (was.stem, was.rows, was.tail)


def test_timms_own_strings_by_hand() -> None:
    text = """['ds_r1_k3_s2_e1_c16_se0.25_nre'], ['ir_r2_k3_s2_e4.5_c24_nre', "ir_r1_k5_s1_e3_c24_se0.25_noskip"],
              ['er_r1_k3_s2_e4_c32', 'uir_r1_a3_k5_s1_e4_c32'], ['cn_r1_k1_s1_c576']"""
    spec = spec_of_strings(block_strings(text), "n")
    first, second, third, fourth, fused, uib = spec.rows
    assert first == MBConv(k=3, exp=16, out=16, se=8, nl="RE", s=2)
    assert second == MBConv(k=3, exp=72, out=24, nl="RE", s=2)
    assert third == MBConv(k=3, exp=112, out=24, nl="RE", skip="identity")  # 108 rounded to 8s
    assert fourth == MBConv(k=5, exp=72, out=24, se=24, nl="HS", skip="none")
    assert fused.word() == "fused" and fused.s == 2 and isinstance(uib, UIB) and uib.kernels == (3, 5)
    assert spec.tail == Conv(k=1, out=576, nl="HS") and spec.gate == "HSIGMOID"


def test_strings_of_an_efficientnet() -> None:
    spec = spec_of_strings(["ds_r1_k3_s1_e1_c16_se0.25", "ir_r1_k3_s2_e6_c24_se0.25"], "n", nl="SILU")
    assert spec.rows == (
        MBConv(k=3, exp=32, out=16, se=8, nl="SILU", se_nl="SILU"),
        MBConv(k=3, exp=96, out=24, se=4, nl="SILU", se_nl="SILU", s=2),
    )
    assert spec.tail == Conv(k=1, out=1280, nl="SILU") and spec.gate == "SIGMOID"


def test_squeezes_of_universal_bottlenecks() -> None:
    """A share of the input in EfficientNet, of the expansion in MobileNetV3."""
    text = "uir_r1_a3_k5_s2_e4_c32_se0.25_nre"
    assert spec_of_strings([text], "n").rows == (UIB(a=3, k=5, exp=128, out=32, se=8, nl="RE", s=2),)
    v3 = spec_of_strings([text, "cn_r1_k1_s1_c64"], "n")
    assert v3.rows == (UIB(a=3, k=5, exp=64, out=32, se=16, nl="RE", s=2),)


def test_strings_answer_like_timms_own(torchvision: Any) -> None:
    """The rows of timm's own network from the very strings in its source."""
    pytest.importorskip("timm", reason="timm cannot be imported here")
    import timm

    strings = ["ds_r1_k3_s2_e1_c16_se0.25_nre", "ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3.67_c24_nre",
               "ir_r1_k5_s2_e4_c40_se0.25", "ir_r2_k5_s1_e6_c40_se0.25", "ir_r2_k5_s1_e3_c48_se0.25",
               "ir_r3_k5_s2_e6_c96_se0.25", "cn_r1_k1_s1_c576"]  # fmt: skip
    spec = parity(timm.create_model("mobilenetv3_small_100").eval(), "n")
    ours = spec_of_strings(strings, "n", features=1024)
    assert (ours.stem, ours.rows, ours.tail) == (spec.stem, spec.rows, spec.tail)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("xx_r1_k3_s1_c16", "blocks of kind xx have no row here"),
        ("ir_r1_k3_s1_e4_c16_zz7", "zz7 has no meaning for a spec"),
        ("ir_r1_s1_e4", "says no k, c"),
        ("ir_r1_k3_s1_e4_c0", "channels must be 1 or more"),
        ("ir_r1_k3_s1_e1..2_c24", r"e1\.\.2 has no meaning for a spec"),
        ("ir_r1_k3_s1_e0_c24_se0.25", "the expansion must be above 0"),
        ("ir_r1_k3_s1_e4_c24_d1", "d1 is space-to-depth in timm"),
        ("ds_r1_k3_s1_c24_d2", "d2 is space-to-depth in timm"),
        ("ir_r1_k3_s1_a3_e4_c24", "a3 has a meaning for uir blocks only"),
        ("ir_r999_k3_s1_e4_c16", "repeats must be from 1 to 64"),
        ("", "are like ir_r2_k3_s2_e6_c24_se0.25_nre"),
    ],
)
def test_strings_that_say_nothing_of_ours(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        spec_of_strings([text] if text else [], "n")


def test_strings_become_a_file(tmp_path: Path) -> None:
    result = import_from(
        "timm:ds_r1_k3_s2_e1_c16_se0.25_nre ir_r2_k3_s2_e4.5_c24_nre cn_r1_k1_s1_c96", out=tmp_path / "s", features=64,
        resolution="96",
    )  # fmt: skip
    spec = load_spec(tmp_path / "s" / "network.yaml")
    assert len(spec.rows) == 3 and spec.resolution == (96, 96) and result.checked is None
    own = import_from("timm:ir_r1_k3_s2_e4_c24", out=tmp_path / "own", mean="0.5", std="0.25").spec
    assert own.mean == (0.5,) * 3 and own.std == (0.25,) * 3
    options: tuple[dict[str, Any], ...] = ({"data": "photos"}, {"spec_only": True})
    for option in options:
        with pytest.raises(BadInput, match=r"--data, --spec-only: belong to networks with weights"):
            import_from("timm:ir_r1_k3_s2_e4_c24", out=tmp_path / "no", **option)
    with pytest.raises(BadInput, match="--stem, --features: belong to timm's block strings"):
        import_from("torchvision:mobilenet_v2", out=tmp_path / "x", stem=8)
