"""The one contract of all exporters: what was written, opened with the target itself, gives our outputs."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from mbv3.export import FRAMEWORKS, TARGETS, export, import_state
from mbv3.files import write_folder
from mbv3.nn import build
from mbv3.spec import ArchSpec, count

from .networks import CASES, near, network, weights

Array = NDArray[np.float32]
Run = Callable[[Path, Array], tuple[Array, int | None]]  # folder, images -> logits, parameters

CLASSIFIERS = tuple(t for t in TARGETS if t != "mmseg")
# what a framework cannot express; everything else it must
# (test_refusals.py says why)
REFUSED = {
    ("torchvision", "mobilenetv4_conv_small"), ("torchvision", "universal"),
    ("torchvision", "mnasnet_a1"), ("torchvision", "mnasnet_a1@0.75"), ("torchvision", "fractional"),
    ("timm", "adapted"), ("timm", "thin_v2"), ("timm", "dilated"),
    *(("mmpretrain", name) for name in CASES if name not in
      ("mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mobilenet_v2@0.75")),
}  # fmt: skip


def _onnx(folder: Path, x: Array) -> tuple[Array, int | None]:
    session = onnxruntime.InferenceSession(folder / "mobilenetv3.onnx", providers=["CPUExecutionProvider"])
    out = [session.run(None, {"input": image[None]})[0] for image in x]
    return np.concatenate(out), None


def _litert(folder: Path, x: Array) -> tuple[Array, int | None]:
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")
    model = litert.Interpreter(str(folder / "mobilenetv3.tflite"), num_threads=1)
    model.allocate_tensors()
    out = []
    for image in x.transpose(0, 2, 3, 1):
        model.set_tensor(model.get_input_details()[0]["index"], np.ascontiguousarray(image[None]))
        model.invoke()
        out.append(model.get_tensor(model.get_output_details()[0]["index"]).copy())
    return np.concatenate(out), None


def imported(folder: Path) -> Any:
    """The exported module, as `import mobilenetv3` in its folder would give it."""
    found = importlib.util.spec_from_file_location("mobilenetv3", folder / "mobilenetv3.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def built(folder: Path) -> Any:
    """`build()` of the exported module; the libraries of OpenMMLab warn of their own old idioms."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mm(cv|engine|seg|pretrain)\b")
        return imported(folder).build()


def _module(folder: Path, x: Array) -> tuple[Array, int | None]:
    net = built(folder)
    assert not net.training
    with torch.inference_mode():
        out = net(torch.from_numpy(x))
    return out.numpy(), sum(p.numel() for p in net.parameters())


RUN: dict[str, Run] = {"onnx": _onnx, "litert": _litert}


@pytest.fixture
def target(request: pytest.FixtureRequest, to: str) -> str:
    """`to`, where its library is there."""
    if to in ("torchvision", "timm", "mmpretrain"):
        request.getfixturevalue("torchvision")
    if to == "timm":
        pytest.importorskip("timm", reason="timm cannot be imported here")
    if to == "mmpretrain":
        request.getfixturevalue("mmpretrain")
    return to


def check(spec: ArchSpec, to: str, folder: Path, relative: Any) -> None:
    """Export, open with the target, compare outputs and parameters."""
    state = weights(spec)
    write_folder(folder, export(spec, state, to).files)
    h, w = (96, 64) if to in FRAMEWORKS else spec.resolution
    x = np.random.default_rng(1).standard_normal((2, 3, h, w), dtype=np.float32)
    net = build(spec)
    net.load_state_dict(state)
    with torch.inference_mode():
        ours = net.eval()(torch.from_numpy(x)).numpy()
    got, params = RUN.get(to, _module)(folder, x)
    assert relative(got, ours) < 1e-4
    assert params in (None, count(spec).params)


@pytest.mark.parametrize(("to", "name"), [(t, n) for t in CLASSIFIERS for n in CASES if (t, n) not in REFUSED])
class TestContract:
    """Every exporter passes it, for every network that its target can express."""

    def test_same_outputs_and_parameters(self, target: str, name: str, tmp_path: Path, relative: Any) -> None:
        check(network(name), target, tmp_path / "out", relative)


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_any_network_is_refused_or_equal(target: str, tmp_path_factory: pytest.TempPathFactory, relative: Any) -> None:
    """No third way: each fault has a path of the network, or the contract holds."""
    outcomes = []

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(spec=near())
    def refused_or_equal(spec: ArchSpec) -> None:
        faults = list(FRAMEWORKS[target].faults(spec))
        outcomes.append(bool(faults))
        if faults:
            assert {f.path.partition(".")[0] for f in faults} <= {path for path, _, _ in spec.convs()} | {
                "head",
                "gate",
            }
        else:
            check(spec, target, tmp_path_factory.mktemp("any") / "out", relative)

    refused_or_equal()
    assert len(set(outcomes)) == 2


@pytest.mark.parametrize(
    ("to", "name"), [(t, n) for t in CLASSIFIERS if t in FRAMEWORKS for n in CASES if (t, n) not in REFUSED]
)
def test_every_entry_goes_there_and_comes_back(target: str, name: str, tmp_path: Path) -> None:
    spec = network(name)
    state = weights(spec)
    write_folder(tmp_path / "out", export(spec, state, target).files)
    back = import_state(spec, built(tmp_path / "out").state_dict(), target)
    assert list(back) == list(state)
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_named_modules_of_published_models(torchvision: Any) -> None:
    """The names are those of the published models, so that their weights can be taken."""
    timm = pytest.importorskip("timm", reason="timm cannot be imported here")
    for framework, name, theirs in [
        ("torchvision", "mobilenet_v3_large", torchvision.models.mobilenet_v3_large()),
        ("torchvision", "mobilenet_v3_small", torchvision.models.mobilenet_v3_small()),
        ("torchvision", "mobilenet_v2", torchvision.models.mobilenet_v2()),
        ("timm", "mobilenet_v3_large", timm.create_model("mobilenetv3_large_100")),
        ("timm", "mobilenet_v3_small", timm.create_model("mobilenetv3_small_100")),
        ("timm", "mobilenet_v2", timm.create_model("mobilenetv2_100")),
        ("timm", "mnasnet_b1", timm.create_model("mnasnet_100")),
        ("timm", "mnasnet_a1", timm.create_model("semnasnet_100")),
    ]:
        spec: ArchSpec = network(name)
        state = import_state(spec, theirs.state_dict(), framework, f"{framework}'s {name}")
        build(spec).load_state_dict(state)


def test_the_exported_module_stands_alone(tmp_path: Path, torchvision: Any) -> None:
    spec = network("mobilenet_v3_small")
    files = export(spec, weights(spec), "torchvision").files
    write_folder(tmp_path / "out", files)
    before = set(sys.modules)
    module = imported(tmp_path / "out")
    assert "mbv3" not in files["mobilenetv3.py"].decode().replace("mbv3-search", "")
    assert not {m for m in set(sys.modules) - before if m.startswith("mbv3")}
    assert module.build(None).state_dict().keys() == module.build().state_dict().keys()


def test_onnx_holds_no_batch_norm(tmp_path: Path) -> None:
    spec = network("adapted")
    model = onnx.load_from_string(export(spec, weights(spec), "onnx").files["mobilenetv3.onnx"])
    assert {n.op_type for n in model.graph.node}.isdisjoint({"BatchNormalization"})
