"""The very names in the files of each framework, and that `export --weights` takes what `train --init` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from mbv3.errors import BadInput
from mbv3.export import FRAMEWORKS, read_any_weights
from mbv3.nn import build
from mbv3.runs import export_to
from mbv3.spec import ArchSpec, load_spec
from mbv3.training import adopt

# (framework, network, names that its own files have): a stem, a depthwise convolution, squeeze-and-excitation, a
# projection's batch norm, the tail, the head
NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("torchvision", "mobilenet_v3_small"): (
        "features.0.0.weight", "features.1.block.0.0.weight", "features.1.block.1.fc1.weight",
        "features.1.block.1.fc2.bias", "features.1.block.2.1.running_var", "features.2.block.1.0.weight",
        "features.12.0.weight", "classifier.0.weight", "classifier.3.bias",
    ),
    ("torchvision", "mobilenet_v2"): (
        "features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight",
        "features.1.conv.2.running_mean", "features.2.conv.0.1.weight", "features.2.conv.3.running_var",
        "features.18.0.weight", "classifier.1.weight",
    ),
    ("timm", "mobilenet_v3_small"): (
        "conv_stem.weight", "bn1.running_mean", "blocks.0.0.conv_dw.weight", "blocks.0.0.se.conv_reduce.weight",
        "blocks.0.0.se.conv_expand.bias", "blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pwl.weight",
        "blocks.1.0.bn3.running_var", "blocks.5.0.conv.weight", "conv_head.bias", "classifier.weight",
    ),
    ("timm", "mobilenet_v2"): (
        "conv_stem.weight", "blocks.0.0.bn2.weight", "blocks.1.0.conv_pw.weight", "blocks.6.0.conv_pwl.weight",
        "conv_head.weight", "bn2.running_var", "classifier.bias",
    ),
    ("mmpretrain", "mobilenet_v3_small"): (
        "backbone.layer0.conv.weight", "backbone.layer0.bn.running_mean", "backbone.layer1.depthwise_conv.conv.weight",
        "backbone.layer1.se.conv1.conv.weight", "backbone.layer1.se.conv2.conv.bias",
        "backbone.layer1.linear_conv.bn.weight", "backbone.layer2.expand_conv.conv.weight",
        "backbone.layer12.conv.weight", "head.layers.0.fc.weight", "head.layers.1.fc.bias",
    ),
    ("mmpretrain", "mobilenet_v2"): (
        "backbone.conv1.conv.weight", "backbone.layer1.0.conv.0.conv.weight", "backbone.layer1.0.conv.1.bn.running_var",
        "backbone.layer2.1.conv.2.conv.weight", "backbone.conv2.bn.weight", "head.fc.weight",
    ),
    ("mmseg", "lraspp_m-v3s-d8"): (
        "backbone.layer0.conv.weight", "backbone.layer1.se.conv1.conv.weight",
        "backbone.layer1.linear_conv.conv.weight", "backbone.layer12.bn.running_var", "decode_head.convs.conv0.weight",
        "decode_head.conv_ups.conv_up0.conv.weight", "decode_head.conv_ups.conv_up1.bn.weight",
        "decode_head.conv_up_input.weight", "decode_head.aspp_conv.bn.weight",
        "decode_head.image_pool.1.conv.weight", "decode_head.conv_seg.bias",
    ),
}  # fmt: skip


def theirs(framework: str, spec: ArchSpec) -> dict[str, torch.Tensor]:
    """Weights of `spec` as a file of the framework has them."""
    names, ours = FRAMEWORKS[framework].names(spec), build(spec, 3).state_dict()
    found: dict[str, torch.Tensor] = {}
    for module, their in names.modules:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if (value := ours.get(f"{module}.{leaf}")) is not None:
                found[f"{their}.{leaf}"] = (
                    value[..., None, None] if their in names.as_conv and leaf == "weight" else value
                )
    return found


@pytest.mark.parametrize(("framework", "network"), NAMES, ids=lambda v: str(v))
def test_a_file_has_these_names_and_begins_a_training_and_an_export(
    framework: str, network: str, tmp_path: Path, capsys: Any
) -> None:
    spec = load_spec(network)
    file = theirs(framework, spec)
    assert set(NAMES[framework, network]) <= set(file)
    torch.save({"state_dict": file, "meta": {"epoch": 3}}, tmp_path / "w.pth")
    read = read_any_weights(tmp_path / "w.pth", spec)
    assert read.framework in (framework, "mmpretrain" if framework == "mmseg" else framework)
    net = build(read.spec, 0)
    assert adopt(net, read.state, "w.pth") == []  # as `train --init` does
    made = export_to(spec, "onnx", weights=str(tmp_path / "w.pth"), out=tmp_path / "n.onnx")
    x = torch.randn(1, 3, *spec.resolution, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(made.files[0], providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        want = net.eval()(x)
    assert float((torch.from_numpy(got) - want).abs().max() / want.abs().max()) < 1e-4


def test_weights_of_another_network_are_refused_by_both(tmp_path: Path) -> None:
    torch.save(theirs("torchvision", load_spec("mobilenet_v2")), tmp_path / "w.pth")
    spec = load_spec("mobilenet_v3_small")
    with pytest.raises(BadInput, match=r"w\.pth"):
        adopt(build(spec, 0), read_any_weights(tmp_path / "w.pth", spec).state, str(tmp_path / "w.pth"))
    with pytest.raises(BadInput, match=r"w\.pth"):
        export_to(spec, "onnx", weights=str(tmp_path / "w.pth"), out=tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()
