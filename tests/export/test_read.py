"""Anybody's checkpoints: tensors are taken, whatever lies beside them, and nothing is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv3.errors import BadInput
from mbv3.export import FRAMEWORKS, export, initial_weights, read_any_weights
from mbv3.nn import build
from mbv3.spec import ArchSpec, load_spec
from mbv3.training import adopt, save_checkpoint, save_weights

SPEC = load_spec("mobilenet_v3_small")
OWN = build(SPEC, 1).state_dict()


def renamed(state: dict[str, Tensor], framework: str, spec: ArchSpec = SPEC) -> dict[str, Tensor]:
    """Our weights under another framework's names."""
    names = FRAMEWORKS[framework].names(spec)
    back, out = dict(names.modules), {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        as_conv = back[module] in names.as_conv and leaf == "weight"
        out[f"{back[module]}.{leaf}"] = (value[..., None, None] if as_conv else value).clone()
    return out


NAMED = {"mbv3": OWN, **{f: renamed(OWN, f) for f in ("torchvision", "timm", "mmpretrain")}}


def same(state: dict[str, Tensor], own: dict[str, Tensor] = OWN) -> bool:
    """Whether all weights of the backbone came; gains may be scaled for another eps."""
    body = [k for k in own if not k.startswith("head.") and not k.endswith(("num_batches_tracked", "bn.weight"))]
    return all(torch.equal(state[k], own[k]) for k in body)


@pytest.mark.parametrize("framework", NAMED)
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.",
     "net.student.", "mobilenetv3."],
)  # fmt: skip
def test_a_prefix_that_all_names_share_is_none(tmp_path: Path, framework: str, prefix: str) -> None:
    torch.save({"state_dict": {prefix + k: v for k, v in NAMED[framework].items()}}, tmp_path / "w.pth")
    state, whose = initial_weights(tmp_path / "w.pth", SPEC)
    assert whose == framework and same(state)
    assert all(k.startswith("head.") for k in adopt(build(SPEC, 2), state, "w"))


@pytest.mark.parametrize(
    "key", ["", "state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "trainer.module"]
)
@pytest.mark.parametrize("name", ["w.pth", "model_best.pth.tar", "w.ckpt", "weights"])
def test_weights_lie_under_any_key_of_a_file_of_any_name(tmp_path: Path, key: str, name: str) -> None:
    content: Any = NAMED["timm"]
    for part in reversed(key.split(".") if key else []):
        content = {part: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}}
    torch.save(content, tmp_path / name)
    assert same(initial_weights(tmp_path / name, SPEC)[0])


@pytest.mark.parametrize("make", [list, tuple])
def test_weights_lie_in_a_list_beside_other_things(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    torch.save(make([NAMED["torchvision"], {"lr": 0.1}, 3]), tmp_path / "w.pth")
    assert same(initial_weights(tmp_path / "w.pth", SPEC)[0])


def test_wrappers_in_the_middle_of_names_are_none(tmp_path: Path) -> None:
    state = {k.replace("blocks.", "blocks._fsdp_wrapped_module."): v for k, v in NAMED["timm"].items()}
    torch.save({k.replace("blocks._fsdp_wrapped_module.1", "blocks._orig_mod.1"): v for k, v in state.items()},
               tmp_path / "w.pth")  # fmt: skip
    assert same(initial_weights(tmp_path / "w.pth", SPEC)[0])


class History:
    """As a framework puts beside its tensors: numpy inside, and a list."""

    def __init__(self) -> None:
        self.values = [np.float64(0.5), np.arange(3)]
        self.by_name = defaultdict(list, a=[1])


class Loop(dict):  # type: ignore[type-arg]
    pass


def test_other_objects_beside_tensors_are_left_where_they_are(tmp_path: Path) -> None:
    more = {
        "args": argparse.Namespace(model="mobilenetv3_small_100", lr=np.float32(0.1)), "meta": History(),
        "loops": Loop(a=History()), "best": np.float64(71.25), "set": {1, 2}, "path": Path("x"), "dtype": torch.float16,
        "size": torch.Size([1, 2]), "device": torch.device("cpu"), "ordered": OrderedDict(a=1), "function": os.getcwd,
        "sparse": torch.eye(3).to_sparse(), "raw": b"bytes", "complex": 1j,
    }  # fmt: skip
    for old in (False, True):
        torch.save({**more, "state_dict": NAMED["timm"]}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        state, whose = initial_weights(tmp_path / "w.pth", SPEC)
        assert whose == "timm" and same(state)


class _Evil:
    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("touch executed",)),
        (eval, ("open('executed', 'w')",)),
        (exec, ("open('executed', 'w')",)),
        (getattr, ("x", "upper")),
        (open, ("executed", "w")),
        (torch.hub.load, ("a/b", "c")),
        (pickle.loads, (pickle.dumps(1),)),
        (_Evil, ((os.system, ("touch executed",)),), {"call": 1}),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...], old: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"stem.conv.weight": _Evil(call), "b": {"c": _Evil(call)}}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(
        BadInput, match=r"evil.pth: holds more than tensors, and none that can be read; it asks for \w+"
    ):
        initial_weights(tmp_path / "evil.pth", SPEC)
    torch.save({**OWN, "more": _Evil(call)}, tmp_path / "both.pth", _use_new_zipfile_serialization=not old)
    assert same(initial_weights(tmp_path / "both.pth", SPEC)[0])
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit")  # people have such files, and will
@pytest.mark.parametrize("how", ["module", "script", "dump", "numpy", "parameters"])
def test_whole_modules_and_other_ways_to_save(tmp_path: Path, how: str) -> None:
    file = tmp_path / "w.pt"
    if how == "module":
        torch.save({"model": nn.DataParallel(build(SPEC, 1))}, file)
    elif how == "script":
        net = torch.jit.trace(build(SPEC, 1).eval(), torch.zeros(1, 3, 64, 64), check_trace=False)
        torch.jit.save(net, str(file))
    elif how == "dump":
        file.write_bytes(pickle.dumps({"model": OWN}))
    elif how == "numpy":
        file.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in OWN.items()}}))
    else:
        torch.save({k: nn.Parameter(v, requires_grad=False) for k, v in OWN.items()}, file)
    state, whose = initial_weights(file, SPEC)
    assert whose == "mbv3" and same(state)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("net", "swa_model"),
     ("state_dict", "ema_state_dict")],
)  # fmt: skip
@pytest.mark.parametrize("framework", ["timm", "torchvision", "mbv3"])
def test_averaged_weights_go_before_others(tmp_path: Path, raw: str, averaged: str, framework: str) -> None:
    ema = build(SPEC, 2).state_dict()
    theirs = ema if framework == "mbv3" else renamed(ema, framework)
    wrapped = {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in theirs.items()}}
    torch.save({raw: NAMED[framework], averaged: wrapped}, tmp_path / "w.pth")
    found = read_any_weights(tmp_path / "w.pth", SPEC)
    assert same(found.state, ema) and not same(found.state)
    assert any(
        f"the averaged weights (EMA) of {averaged}.module are taken, not those of {raw}" in n for n in found.notes
    )


def test_both_in_one_state_dict(tmp_path: Path) -> None:
    ema = build(SPEC, 2).state_dict()
    both = {**{f"model.{k}": v for k, v in OWN.items()}, **{f"ema_model.{k}": v for k, v in ema.items()}}
    torch.save({"state_dict": {**both, "criterion.weight": torch.ones(9)}}, tmp_path / "w.ckpt")
    assert same(read_any_weights(tmp_path / "w.ckpt", SPEC).state, ema)


def test_our_own_checkpoint_is_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", {"net": OWN, "optimizer": {"a": torch.ones(3)}}, {"step": 1})
    state, whose = initial_weights(tmp_path / "c.safetensors", SPEC)
    assert whose == "mbv3" and same(state)


# ---- what a state dict does not say --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "eps"), [("mobilenetv3.pth", 1e-5), ("tf_mobilenetv3_small_100.pth", 1e-3)])
def test_timms_eps_keeps_its_outputs(tmp_path: Path, name: str, eps: float) -> None:
    theirs = build(replace(SPEC, bn_eps=eps), 0)
    with torch.no_grad():
        for m in theirs.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_var.uniform_(1e-6, 1e-2)
    torch.save(renamed(theirs.state_dict(), "timm"), tmp_path / name)
    found = read_any_weights(tmp_path / name, SPEC)
    ours = build(replace(found.spec, padding="both"), 1)
    assert adopt(ours, found.state, "w") == []
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want, got = theirs.eval()(x), ours.eval()(x)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    said = " ".join(found.notes)
    assert ("eps 1e-05, this network has 0.001" in said) == (eps == 1e-5)
    assert ("TensorFlow's padding" in said) == (found.spec.padding == "tensorflow") == name.startswith("tf_")


@pytest.mark.parametrize("name", ["mnasnet_b1", "mnasnet_a1", "mobilenet_v2@0.5"])
def test_timms_eps_is_known_of_every_network_that_it_has(tmp_path: Path, name: str) -> None:
    spec = replace(load_spec(name), bn_eps=1e-3)
    own = build(spec, 1).state_dict()
    own["stem.bn.running_var"].fill_(1e-3)
    torch.save(renamed(own, "timm", spec), tmp_path / "w.pth")
    found = read_any_weights(tmp_path / "w.pth", spec)
    gain = found.state["stem.bn.weight"] / own["stem.bn.weight"]
    torch.testing.assert_close(gain, torch.full_like(gain, (2e-3 / 1.01e-3) ** 0.5))
    assert any("known by tf_ in its file's or folder's name" in note for note in found.notes)


@pytest.mark.parametrize("where", ["arch", "args", "config", "folder"])
def test_tensorflows_ports_are_known_by_what_lies_beside_the_tensors(tmp_path: Path, where: str) -> None:
    tf = "tf_mobilenetv3_small_100"
    more: dict[str, dict[str, Any]] = {
        "arch": {"arch": tf},
        "args": {"args": argparse.Namespace(model=tf)},
        "config": {},
        "folder": {},
    }
    if where == "config":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": tf}))
    file = tmp_path / ("w.pth" if where != "folder" else f"models--timm--{tf}.in1k/snapshots/0123/model.safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**more[where], "state_dict": NAMED["timm"]}, file)
    found = read_any_weights(file, SPEC)
    assert found.spec.padding == "tensorflow" and torch.equal(found.state["stem.bn.weight"], OWN["stem.bn.weight"])


def test_what_we_exported_keeps_its_eps(tmp_path: Path) -> None:
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(export(SPEC, OWN, "timm").files["mobilenetv3.safetensors"])
    found = read_any_weights(file, SPEC)
    assert found.framework == "timm" and torch.equal(found.state["stem.bn.weight"], OWN["stem.bn.weight"])
    assert found.notes == ()


def test_mmsegmentations_padding_is_told(tmp_path: Path) -> None:
    spec = load_spec("lraspp_m-v3s-d8")
    named = renamed(build(spec, 1).state_dict(), "mmseg", spec)
    torch.save({"meta": {"mmseg_version": "1.2.2"}, "state_dict": named}, tmp_path / "mm.pth")
    found = read_any_weights(tmp_path / "mm.pth", spec)
    assert found.framework == "mmseg" and found.spec == replace(spec, padding="tensorflow")
    assert any("trained under TensorFlow's padding" in note for note in found.notes)
    torch.save({"state_dict": NAMED["mmpretrain"]}, tmp_path / "pre.pth")
    assert read_any_weights(tmp_path / "pre.pth", SPEC).spec == SPEC


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["mbv3", "timm"])
@pytest.mark.parametrize(
    ("value", "half", "said"),
    [(float("nan"), False, "1 NaN of"), (float("inf"), False, "1 Inf of"), (1e6, True, "1 Inf of .* stored as fp16")],
)
def test_broken_weights_are_named(tmp_path: Path, framework: str, value: float, half: bool, said: str) -> None:
    state = {k: v.clone() for k, v in NAMED[framework].items()}
    name = next(k for k in state if k.endswith("running_var"))
    state[name][3] = value
    stored = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    save_weights(tmp_path / "w.safetensors", stored)
    with pytest.raises(BadInput, match=rf"take an earlier checkpoint\n  .*running_var is not finite: {said}"):
        adopt(build(SPEC, 0), initial_weights(tmp_path / "w.safetensors", SPEC)[0], "w.safetensors")
    if framework == "mbv3" and not half:
        for to in ("onnx", "torchvision"):
            with pytest.raises(BadInput, match=r"broken weights; .*\n.*stem.bn.running_var is not finite"):
                export(SPEC, state, to)


@pytest.mark.parametrize("framework", ["mbv3", "timm"])
def test_a_weight_that_fp32_cannot_hold_is_named(tmp_path: Path, framework: str) -> None:
    state = {k: v.double() if v.is_floating_point() else v for k, v in NAMED[framework].items()}
    name = next(k for k in state if k.endswith("running_mean"))
    save_weights(tmp_path / "w.safetensors", state)
    adopt(build(SPEC, 0), initial_weights(tmp_path / "w.safetensors", SPEC)[0], "w.safetensors")
    state[name][3] = 1e39
    save_weights(tmp_path / "w.safetensors", state)
    with pytest.raises(BadInput, match=r"running_mean is not finite: 1 Inf of .* values; it is stored as fp64"):
        adopt(build(SPEC, 0), initial_weights(tmp_path / "w.safetensors", SPEC)[0], "w.safetensors")


def test_a_negative_variance_and_whole_numbers_are_refused() -> None:
    for change, said in (
        (lambda v: v - 2.0, r"stem.bn.running_var has a variance of -1"),
        (lambda v: v.to(torch.int8), r"stem.bn.running_var is torch.int8"),
    ):
        change_: Callable[[Tensor], Tensor] = change
        with pytest.raises(BadInput, match=said):
            adopt(build(SPEC, 0), {**OWN, "stem.bn.running_var": change_(OWN["stem.bn.running_var"])}, "w")


def test_files_that_are_no_weights_are_told_for_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    for content, said in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"pointer of Git LFS, .*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"", "is empty; copy or download it again"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "is a network in operators; .* mbv3 import"),
        (b"other", r"holds more than tensors, or is none of torch's files \(.*\); save"),
        (pickle.dumps([1, 2]), "holds no state dict"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadInput, match=said):
            initial_weights(file, SPEC)
    with pytest.raises(BadInput, match=r"is a folder; name the file in it: w.pth"):
        initial_weights(tmp_path, SPEC)
    (tmp_path / "w.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(BadInput, match=r"w.onnx: is a network in operators; .*mbv3 import .*w.onnx --out DIR"):
        initial_weights(tmp_path / "w.onnx", SPEC)
    (tmp_path / "w.onnx").unlink()
    with pytest.raises(BadInput, match="no such weights file"):
        initial_weights(tmp_path / "gone", SPEC)
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("a.txt", "x")
    with pytest.raises(BadInput, match=r"a zip without data\.pkl"):
        initial_weights(file, SPEC)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_is_cut_or_changed_ends_in_a_message(tmp_path: Path, old: bool) -> None:
    small = {"a.weight": torch.arange(40.0), "n": torch.tensor(3)}
    torch.save(small, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    whole = (tmp_path / "w.pth").read_bytes()
    rng = np.random.default_rng(0)
    read = 0
    for i in range(300):
        content = bytearray(whole[: int(rng.integers(len(whole)))] if i % 3 == 0 else whole)
        for at in rng.integers(0, max(1, len(content)), 3) if i % 3 else ():
            content[at] = int(rng.integers(256))
        (tmp_path / "x.pth").write_bytes(content)
        try:
            read_any_weights(tmp_path / "x.pth", SPEC)
            read += 1
        except BadInput:
            pass
    assert read < 300


def test_weights_of_nobody_come_as_they_are(tmp_path: Path) -> None:
    torch.save({"state_dict": {"enc.a.weight": torch.ones(2), "enc.b.weight": torch.ones(2)}}, tmp_path / "w.pth")
    state, whose = initial_weights(tmp_path / "w.pth", SPEC)
    assert whose == "" and set(state) == {"a.weight", "b.weight"}
