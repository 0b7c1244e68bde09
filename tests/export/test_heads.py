"""The contract for networks under segmentation heads and a detector: outputs, parameters, names, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from mbv3.errors import DocumentError
from mbv3.export import export, import_state
from mbv3.files import write_folder
from mbv3.nn import Maps, build, flatten_maps
from mbv3.spec import ArchSpec, Tap, load_spec, with_head

from .networks import weights
from .test_contract import built

MMSEG = [
    "lraspp_m-v3-d8",
    "lraspp_m-v3s-d8",
    *(f"{head}_m-v2-d8" for head in ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")),
]
TORCHVISION = [
    "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "crossed",
]  # fmt: skip


def crossed() -> ArchSpec:
    """torchvision's LR-ASPP with its finer map behind the coarser one, at the same stride."""
    spec = with_head(load_spec("mobilenet_v3_small"), "lraspp-torchvision", 4)
    return replace(spec, head=replace(spec.head, high=Tap(10), low=(Tap("tail"),)))


Logits = Callable[[Any, torch.Tensor], torch.Tensor]


def _theirs(net: Any, x: torch.Tensor, to: str) -> torch.Tensor:
    """Logits at the image's size, or a detector's class and box maps in one row."""
    if to == "mmseg":
        return net.encode_decode(x, [{"img_shape": tuple(x.shape[2:])}] * len(x))  # type: ignore[no-any-return]
    if hasattr(net, "anchor_generator"):
        maps = net.head(list(net.backbone(x).values()))
        return torch.cat((maps["cls_logits"], maps["bbox_regression"]), 2)
    return net(x)["out"]  # type: ignore[no-any-return]


def _ours(spec: ArchSpec, net: Any, x: torch.Tensor) -> torch.Tensor:
    out = net(x)
    if isinstance(out, Maps):
        return torch.cat(flatten_maps(out, spec.head.classes), 2)
    return out  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("to", "name"), [*(("torchvision", name) for name in TORCHVISION), *(("mmseg", name) for name in MMSEG)]
)
def test_contract(to: str, name: str, tmp_path: Path, relative: Any, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("torchvision")
    if to == "mmseg":
        request.getfixturevalue("mmseg")
    spec = crossed() if name == "crossed" else load_spec(name)
    state = weights(spec)
    write_folder(tmp_path / "out", export(spec, state, to).files)
    theirs = built(tmp_path / "out")
    ours = build(spec)
    ours.load_state_dict(state)
    # mmsegmentation's LR-ASPP has windows of 49 and takes a map at least as large
    h, w = (392, 404) if name in ("lraspp_m-v3-d8", "lraspp_m-v3s-d8") else (97, 65)
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert relative(_theirs(theirs, x, to).numpy(), _ours(spec, ours.eval(), x).numpy()) < 1e-4
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    if name.startswith("ssdlite"):
        assert theirs.transform.image_mean == [0.485, 0.456, 0.406]
        assert theirs.transform.image_std == [0.229, 0.224, 0.225]
    back = import_state(spec, theirs.state_dict(), to)
    assert list(back) == list(state) and all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "pspnet_m-v2-d8"])
def test_onnx(name: str, tmp_path: Path, relative: Any) -> None:
    spec = replace(load_spec(name), resolution=(97, 65))
    state = weights(spec)
    session = onnxruntime.InferenceSession(
        export(spec, state, "onnx").files["mobilenetv3.onnx"], providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(1).standard_normal((1, 3, 97, 65), dtype=np.float32)
    got = session.run(None, {"input": x})
    net = build(spec)
    net.load_state_dict(state)
    with torch.inference_mode():
        out = net.eval()(torch.from_numpy(x))
    expected = [*out.classes, *out.boxes] if isinstance(out, Maps) else [out]
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b.numpy()) < 1e-4


def test_a_note_where_paddings_differ() -> None:
    spec = load_spec("lraspp_m-v3s-d8")
    assert any("8 n + 1" in note for note in export(spec, weights(spec), "mmseg").notes)
    spec = load_spec("fcn_m-v2-d8")
    assert not any("8 n + 1" in note for note in export(spec, weights(spec), "mmseg").notes)


def test_a_note_where_dropouts_differ() -> None:
    def dropouts(name: str, to: str, **changes: float) -> list[str]:
        spec = load_spec(name)
        spec = replace(spec, head=replace(spec.head, **changes))
        return [note for note in export(spec, weights(spec), to).notes if "dropout" in note]

    assert not dropouts("deeplabv3_mobilenet_v3_large", "torchvision")
    [note] = dropouts("deeplabv3_mobilenet_v3_large", "torchvision", dropout=0.2)
    assert "head has a dropout of 0.5 (here 0.2)" in note
    assert "whole channels" in dropouts("lraspp_m-v3s-d8", "mmseg")[0]
    assert not dropouts("lraspp_m-v3s-d8", "mmseg", dropout=0.0)


@pytest.mark.parametrize(
    ("to", "name", "path"),
    [
        ("mmseg", "mobilenet_v3_large", "head"),
        ("mmseg", "lraspp_mobilenet_v3_large", "rows[6]"),
        ("mmseg", "ssdlite320_mobilenet_v3_large", "rows[12]"),
        ("timm", "lraspp_mobilenet_v3_large", "head"),
        ("mmpretrain", "fcn_m-v2-d8", "head"),
        ("torchvision", "lraspp_m-v3-d8", "head.branches"),
        ("torchvision", "fcn_m-v2-d8", "head"),
        ("torchvision", "table7_row8", "head.pool"),
        ("torchvision", "table6_v3_large", "head.anchors"),
    ],
)
def test_heads_that_a_target_lacks(to: str, name: str, path: str) -> None:
    spec = load_spec(name)
    with pytest.raises(DocumentError, match=f"cannot be expressed in {to}: ") as e:
        export(spec, {}, to)
    assert path in {f.path for f in e.value.faults}


@pytest.mark.parametrize(
    ("to", "name", "changes", "path"),
    [
        ("torchvision", "deeplabv3_mobilenet_v3_large", {"rates": (1, 12, 1)}, "head.rates[2]"),
        ("mmseg", "deeplabv3plus_m-v2-d8", {"low": (Tap(5),)}, "head.low[0]"),
    ],
)
def test_one_thing_that_a_head_there_lacks(to: str, name: str, changes: dict[str, Any], path: str) -> None:
    spec = load_spec(name)
    spec = replace(spec, head=replace(spec.head, **changes))
    with pytest.raises(DocumentError, match=f"cannot be expressed in {to}: ") as e:
        export(spec, {}, to)
    assert {f.path for f in e.value.faults} == {path}
