"""What a target cannot express and weights that do not fit: all of it at once, and nothing half done."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load

from mbv3.errors import BadInput, DocumentError
from mbv3.export import FRAMEWORKS, TARGETS, export, import_state
from mbv3.spec import ArchSpec, Conv, DSConv, load_spec

from .networks import ADAPTED, FRACTIONAL, weights
from .test_contract import REFUSED, network

LARGE = load_spec("mobilenet_v3_large")


def refused(spec: ArchSpec, to: str) -> dict[str, str]:
    """{path: rule} of what `to` cannot express in `spec`."""
    with pytest.raises(DocumentError, match=f"cannot be expressed in {to}: ") as e:
        export(spec, {}, to)
    return {f.path: f.rule for f in e.value.faults}


@pytest.mark.parametrize(("to", "name"), sorted(REFUSED))
def test_every_refused_network_names_rows(to: str, name: str) -> None:
    assert any(path.startswith(("rows[", "stem", "tail")) for path in refused(network(name), to))


Change = Callable[[ArchSpec], ArchSpec]


def row(i: int, new: Any = None, **changes: Any) -> Change:
    return lambda spec: replace(
        spec, rows=(*spec.rows[:i], new or replace(spec.rows[i], **changes), *spec.rows[i + 1 :])
    )


@pytest.mark.parametrize(
    ("to", "change", "path", "rule"),
    [
        ("torchvision", row(3, se=32), "rows[3].se", "squeezes 72 channels to 24"),
        ("torchvision", row(2, skip="none"), "rows[2].skip", "adds the input"),
        ("torchvision", row(2, skip="pool"), "rows[2].skip", "no pooled skip"),
        ("torchvision", row(6, nl="RE6"), "rows[6].nl", "RE or HS"),
        ("torchvision", row(6, nl="NONE"), "rows[6].nl", "RE or HS"),
        ("torchvision", row(6, s=3), "rows[6].s", "strides 1 and 2"),
        ("torchvision", row(6, dilation=2), "rows[6].s", "dilated rows have stride 1"),
        ("torchvision", row(1, Conv(k=3, out=24)), "rows[1]", "inverted residuals"),
        ("torchvision", row(0, DSConv(k=3, out=16, se=5)), "rows[0].se", "squeezes 16 channels to 8"),
        ("torchvision", lambda s: replace(s, gate="SIGMOID"), "gate", "gate HSIGMOID"),
        ("torchvision", lambda s: replace(s, stem=replace(s.stem, se=4)), "stem.se", "no squeeze"),
        ("torchvision", lambda s: replace(s, tail=replace(s.tail, se=4)), "tail.se", "no squeeze"),
        ("timm", row(1, exp=60), "rows[1].exp", "multiples of 8, here to 64"),
        ("timm", row(6, nl="NONE"), "rows[6].nl", "RE, RE6, HS, SILU"),
        ("timm", row(3, se_nl="SILU"), "rows.se_nl", "one activation inside squeeze-and-excitation"),
        ("timm", row(0, DSConv(k=3, out=16, out_nl="HS")), "rows[0].out_nl", "one activation, here RE"),
        ("timm", row(0, DSConv(k=3, out=16, out_nl="RE", skip="identity")), "rows[0].skip", "`dsa`"),
        ("torchvision", row(3, se_nl="SILU"), "rows[3].se_nl", "no such field"),
        ("torchvision", row(0, DSConv(k=3, out=16, out_nl="RE", skip="identity")), "rows[0].out_nl", "no such field"),
        ("torchvision", lambda s: replace(s, head=replace(s.head, features_bias=False)), "head.features_bias", "bias"),
        ("mmpretrain", row(3, se_nl="HS"), "rows[3]", "arch='large' has here"),
        ("timm", row(6, s=4), "rows[6].s", "strides 1 and 2"),
        ("timm", row(7, dilation=2), "rows[7].dilation", "no dilation"),
        ("timm", row(2, skip="pool"), "rows[2].skip", "no pooled skip"),
        ("timm", row(1, Conv(k=3, out=24, se=3)), "rows[1].se", "no squeeze"),
        ("timm", lambda s: replace(s, stem=replace(s.stem, s=1)), "stem.s", "stride 2"),
        ("timm", lambda s: replace(s, head=replace(s.head, nl="RE")), "head.nl", "one activation"),
        ("timm", row(4, s=2, skip="none"), "head.features", "dilates beyond stride 32"),
        ("mmpretrain", row(8, exp=192), "rows[8]", "arch='large' has here mbconv k 3 exp 184"),
        ("mmpretrain", lambda s: replace(s, tail=None), "tail", "has here conv k 1 out 960"),
        ("mmpretrain", lambda s: replace(s, gate="SIGMOID"), "gate", "HSIGMOID"),
    ],
)
def test_one_thing_that_a_target_lacks(to: str, change: Change, path: str, rule: str) -> None:
    assert not list(FRAMEWORKS[to].faults(LARGE))
    faults = refused(change(LARGE), to)
    assert rule in faults[path]


def test_all_faults_at_once() -> None:
    assert set(refused(ADAPTED, "timm")) == {"rows[1].exp", "rows[2].exp", "rows[3].exp", "rows[5].exp"}
    assert set(refused(FRACTIONAL, "torchvision")) == {
        "rows[0].skip", "rows[2].se", "rows[3]", "rows[4].se", "rows[5].se", "rows[6].skip",
    }  # fmt: skip


@pytest.mark.parametrize("to", ["torchvision", "timm", "mmpretrain"])
def test_tables_for_networks_that_a_target_lacks(to: str) -> None:
    """Weights of another network begin a training by its names, so a table leaves out what it does not know."""
    v2 = load_spec("mobilenet_v2")
    for rows in [(*v2.rows, v2.rows[-1]), (Conv(k=3, out=32), *v2.rows)]:
        modules = dict(FRAMEWORKS[to].names(replace(v2, rows=rows, name="longer")).modules)
        assert "stem.conv" in modules and "rows.3.depthwise.conv" in modules


# ---- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGETS)
def test_weights_that_do_not_fit_are_all_listed(to: str) -> None:
    spec = load_spec("lraspp_m-v3s-d8" if to == "mmseg" else "mobilenet_v3_small")
    state = weights(spec)
    bias, classes = "head.classifier.bias", spec.head.classes
    del state["stem.conv.weight"], state["rows.0.se.reduce.bias"]
    state[bias] = torch.zeros(7)
    state["rows.1.depthwise.bn.running_var"] = torch.zeros(1, 72)
    state["tail.bn.bias"] = torch.zeros(576, dtype=torch.int32)
    state["rows.99.conv.weight"] = torch.zeros(1)
    with pytest.raises(BadInput, match="2 missing, 1 unknown, 2 mis-shaped, 1 not floating point") as e:
        export(spec, state, to, source="w.safetensors")
    lines = str(e.value).splitlines()
    assert lines[0].startswith("w.safetensors: ")
    assert sorted(lines[1:]) == sorted([
        "  missing: stem.conv.weight",
        "  missing: rows.0.se.reduce.bias",
        "  unknown: rows.99.conv.weight",
        f"  mis-shaped: {bias} is (7,), not ({classes},)",
        "  mis-shaped: rows.1.depthwise.bn.running_var is (1, 72), not (72,)",
        "  not floating point: tail.bn.bias is torch.int32",
    ])  # fmt: skip


def test_weights_of_another_network_are_counted_and_not_all_printed() -> None:
    state = weights(load_spec("mobilenet_v2"))
    with pytest.raises(BadInput, match=r"missing, \d+ unknown") as e:
        export(load_spec("mobilenet_v3_small"), state, "onnx")
    text = str(e.value)
    counts = [int(n) for n in re.findall(r"(\d+) (?:missing|unknown|mis-shaped)", text.splitlines()[0])]
    more = [int(n) for n in re.findall(r"^  (?:missing|unknown|mis-shaped): and (\d+) more$", text, re.M)]
    assert sum(counts) > 200 and len(text.splitlines()) == 1 + sum(min(n, 20) + (n > 20) for n in counts)
    assert more == [n - 20 for n in counts if n > 20]


def test_counters_may_lack_and_other_precisions_become_float32() -> None:
    spec = load_spec("mobilenet_v3_small@0.75")
    state = weights(spec)
    half = {k: v.half() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    theirs = load(export(spec, half, "torchvision").files["mobilenetv3.safetensors"])
    assert {v.dtype for k, v in theirs.items() if not k.endswith("tracked")} == {torch.float32}
    assert {int(v) for k, v in theirs.items() if k.endswith("tracked")} == {0}
    assert torch.equal(theirs["features.0.0.weight"], half["stem.conv.weight"].float())


def test_weights_of_another_network_are_refused_on_the_way_in() -> None:
    small = load_spec("mobilenet_v3_small")
    with pytest.raises(BadInput, match=r"theirs: not the weights of this network; entries: \d+ missing, \d+ unknown"):
        import_state(small, weights(small), "torchvision", "theirs")


@pytest.mark.parametrize(
    ("to", "precision", "match"),
    [
        ("litert", "int8", "no quantizer"),
        ("timm", "int8", "only --to onnx has int8"),
        ("onnx", "fp16", "must be one of fp32, int8"),
        ("caffe", "fp32", "must be one of onnx"),
    ],
)
def test_precisions_and_targets(to: str, precision: str, match: str) -> None:
    spec = load_spec("mobilenet_v3_small@0.75")
    with pytest.raises(BadInput, match=match):
        export(spec, weights(spec), to, precision=precision)
