"""TensorFlow's padding: in the spec, in torch, in both runtimes, and nowhere where it was not asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mbv3.errors import DocumentError
from mbv3.export import export
from mbv3.graph import network_model, network_tflite
from mbv3.nn import build, cut_state
from mbv3.spec import ArchSpec, dump_spec, far_pads, load_spec, lower, parse_spec


def padded(height: int, width: int) -> ArchSpec:
    return replace(load_spec("mobilenet_v3_small"), resolution=(height, width), padding="tensorflow")


@pytest.mark.parametrize(
    ("size", "k", "s", "d", "want"),
    [(224, 3, 2, 1, (0, 1)), (225, 3, 2, 1, (1, 1)), (112, 5, 2, 1, (1, 2)), (7, 3, 1, 1, (1, 1)), (7, 5, 1, 2, (4, 4)),
     (4, 1, 2, 1, (0, 0))],
)  # fmt: skip
def test_same_by_hand(size: int, k: int, s: int, d: int, want: tuple[int, int]) -> None:
    assert far_pads(size, k, s, d) == want


def test_a_spec_keeps_it_and_is_unchanged_without() -> None:
    spec = padded(64, 96)
    assert "padding: tensorflow\n" in dump_spec(spec) and parse_spec(dump_spec(spec)) == spec
    assert "padding" not in dump_spec(replace(spec, padding="both"))
    with pytest.raises(DocumentError, match="padding: must be one of both, tensorflow"):
        parse_spec(dump_spec(spec).replace("padding: tensorflow", "padding: valid"))
    with pytest.raises(DocumentError, match="padding: must be one of both, tensorflow"):
        replace(spec, padding="valid")  # type: ignore[arg-type]


def test_a_table_has_one_row_for_both() -> None:
    spec = padded(64, 96)
    keys = [[layer.key for layer in lower(s)] for s in (spec, replace(spec, padding="both"))]
    assert keys[0] == keys[1]
    far = [op for layer in lower(spec) for op in layer.ops if op.far]
    assert far and all(op.s == 2 for op in far)


def same(conv: Any, x: Tensor) -> Tensor:
    """TensorFlow's own rule, written out: as much as the last window needs, the odd zero at the far side."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1], strict=True):
        need = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
        pads += [need // 2, need - need // 2]
    x = functional.pad(x, pads)
    return functional.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (50, 63)])
def test_torch_and_the_runtimes_agree_on_it(height: int, width: int) -> None:
    spec = padded(height, width)
    net = build(spec, 0).eval()
    x = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    taken = {name: m for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)}
    assert len(taken) > 3
    seen: list[bool] = []
    for m in taken.values():
        m.register_forward_hook(lambda m, i, y: seen.append(torch.allclose(same(m, i[0]), y, atol=1e-5)))
    with torch.no_grad():
        want = net(x).numpy()
        both = build(replace(spec, padding="both"), 0).eval()(x).numpy()
    assert seen and all(seen)
    if (height, width) == (64, 96):
        assert np.abs(want - both).max() > 1e-2 * np.abs(want).max()
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(np.abs(want).max())}
    run = onnxruntime.InferenceSession(network_model(spec, state), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(run.run(None, {"input": x.numpy()})[0], want, **tolerance)
    lite = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=network_tflite(spec, state))
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], x.permute(0, 2, 3, 1).contiguous().numpy())
    lite.invoke()
    np.testing.assert_allclose(lite.get_tensor(lite.get_output_details()[0]["index"]), want, **tolerance)


def test_where_it_cannot_be_expressed_it_is_told() -> None:
    spec = padded(64, 64)
    state = build(spec, 0).state_dict()
    for to in ("torchvision", "timm", "mmpretrain"):
        with pytest.raises(DocumentError, match=r"padding: .* written with padding on both sides \(got tensorflow\)"):
            export(spec, state, to)
    assert export(spec, state, "onnx").files
    smaller = replace(spec, head=replace(spec.head, features=8))  # type: ignore[call-arg]
    assert cut_state(state, spec, smaller)
    with pytest.raises(Exception, match="the networks differ in padding"):
        cut_state(state, spec, replace(smaller, padding="both"))
