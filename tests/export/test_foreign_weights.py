"""Weights of torchvision, timm, mmpretrain and mmsegmentation begin a training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mbv3.errors import BadInput
from mbv3.export import FRAMEWORKS
from mbv3.export.read import initial_weights
from mbv3.nn import build
from mbv3.spec import ArchSpec, load_spec, with_head
from mbv3.training import adopt, save_weights


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_under_the_libraries_own_names(
    torchvision: Any, classes: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    torch.manual_seed(3)
    if kind == "torchvision":
        theirs = torchvision.models.mobilenet_v3_small(num_classes=12).state_dict()
    else:
        theirs = pytest.importorskip("timm").create_model("mobilenetv3_small_100", num_classes=12).state_dict()
    file = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save({"model": theirs, "epoch": 3}, file)
    else:
        save_weights(file, theirs)
    spec = load_spec("mobilenet_v3_small")
    for target in (replace(spec, head=replace(spec.head, classes=2)), with_head(spec, "lraspp", 3)):
        state, whose = initial_weights(file, target)
        net = build(target, 0)
        left = adopt(net, state, "theirs")
        assert whose == kind and left and all(k.startswith("head.") for k in left)
        stem = next(v for k, v in theirs.items() if v.dim() == 4)
        assert torch.equal(net.state_dict()["stem.conv.weight"], stem)
        moved = [k for k, v in net.state_dict().items() if k in state and torch.equal(v, state[k])]
        assert len(moved) > 0.9 * len([k for k in net.state_dict() if not k.startswith("head.")])
    if kind == "torchvision":  # the same answers, not only the same names
        same = replace(spec, head=replace(spec.head, classes=12))
        net, x = build(same, 0), torch.randn(2, 3, 64, 64)
        assert adopt(net, initial_weights(file, same)[0], "theirs") == []
        model = torchvision.models.mobilenet_v3_small(num_classes=12)
        model.load_state_dict(theirs)
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(x), model.eval()(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_weights_exported_for_timm_begin_another_task(tmp_path: Path, name: str, head: str) -> None:
    spec = load_spec(name)
    names, ours = FRAMEWORKS["timm"].names(spec), build(spec, 3).state_dict()
    theirs = {}
    for module, their in names.modules:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if (value := ours.get(f"{module}.{leaf}")) is not None:
                value = value[..., None, None] if module in names.as_conv and leaf == "weight" else value
                theirs[f"{their}.{leaf}"] = value.contiguous()
    save_weights(tmp_path / "timm.safetensors", theirs, bn_eps=str(spec.bn_eps))  # as our export says it
    target = with_head(spec, head, 4)
    state, whose = initial_weights(tmp_path / "timm.safetensors", target)
    net = build(target, 0)
    left = adopt(net, state, "theirs")
    assert whose == "timm" and all(k.startswith("head.") for k in left)
    body = [k for k in ours if not k.startswith("head.") and ours[k].is_floating_point()]
    assert body and all(torch.equal(net.state_dict()[k], ours[k]) for k in body)


def test_systems_of_others_begin_a_training_head_and_all(torchvision: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    save_weights(tmp_path / "t.safetensors", theirs.state_dict())
    spec = with_head(load_spec("lraspp_mobilenet_v3_large"), load_spec("lraspp_mobilenet_v3_large").head, 5)
    net = build(spec, 0)
    state, whose = initial_weights(tmp_path / "t.safetensors", spec)
    assert whose == "torchvision" and adopt(net, state, "t") == []
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), theirs.eval()(x)["out"], rtol=1e-3, atol=1e-4)
    # mmsegmentation's backbone has the names of mmpretrain; a head of other classes stays new
    mm = FRAMEWORKS["mmseg"].names(load_spec("lraspp_m-v3s-d8"))
    ours = build(load_spec("lraspp_m-v3s-d8"), 1).state_dict()
    back = dict(mm.modules)
    named = {f"{back[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in ours.items()}
    assert any(k.startswith("decode_head.") for k in named) and any(k.startswith("backbone.") for k in named)
    torch.save({"state_dict": named, "meta": {"epoch": 1}}, tmp_path / "mm.pth")
    target = with_head(load_spec("lraspp_m-v3s-d8"), load_spec("lraspp_m-v3s-d8").head, 3)
    net = build(target, 0)
    state, whose = initial_weights(tmp_path / "mm.pth", target)
    assert whose == "mmseg" and all("classifier" in k for k in adopt(net, state, "mm"))
    assert torch.equal(net.state_dict()["rows.3.project.conv.weight"], ours["rows.3.project.conv.weight"])


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_nothing_in_a_weights_file_is_executed(
    tiny_spec: ArchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"stem.conv.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BadInput, match=r"evil.pth: holds more than tensors.*convert it to safetensors"):
        initial_weights(tmp_path / "evil.pth", tiny_spec)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadInput, match=r"list.pt: holds no state dict"):
        initial_weights(tmp_path / "list.pt", tiny_spec)
    (tmp_path / "none.pth").write_bytes(b"")
    with pytest.raises(BadInput, match=r"none.pth: is empty; copy or download it again"):
        initial_weights(tmp_path / "none.pth", tiny_spec)
    with pytest.raises(BadInput, match=r"gone.pth: no such weights file"):
        initial_weights(tmp_path / "gone.pth", tiny_spec)
