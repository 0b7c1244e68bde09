"""Published networks as data: each has the parameters of the weights that are downloaded, and gives their outputs."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mbv3.accuracy import Published, imagenet, recipes, zoo
from mbv3.errors import BadInput
from mbv3.export import FRAMEWORKS, export, import_state
from mbv3.export.names import from_theirs
from mbv3.graph import network_model, network_tflite
from mbv3.nn import build, cut_state
from mbv3.spec import ArchSpec, channels, count, cut, sites

SIDE = 64  # pixels: names, strides, paddings and operations are the same as at a network's own


def test_the_zoo_is_complete_and_names_are_unique() -> None:
    networks = zoo()
    assert len(networks) >= 120 and len({p.name for p in networks}) == len(networks)
    assert len({(p.weights, p.resolution) for p in networks}) == len(networks)
    assert {p.weights.partition(":")[0] for p in networks} == {"timm", "torchvision"}
    assert all(p.recipe in recipes() for p in networks)
    assert all(50 < p.top1 < 85 for p in networks)


@pytest.mark.parametrize("published", zoo(), ids=lambda p: p.name)
def test_parameters_are_those_of_the_weights(published: Published) -> None:
    spec = published.spec()
    assert count(spec).params == published.params
    assert spec.resolution == (published.resolution, published.resolution) and spec.name == published.name


# ---- the libraries' own --------------------------------------------------------------------------------------


def small(published: Published) -> ArchSpec:
    return replace(published.spec(), resolution=(SIDE, SIDE))


def scatter(net: torch.nn.Module) -> None:
    """Batch norms as after training: as they begin, a wrong eps or a wrong order would not be seen."""
    generator = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (m.running_mean, -0.2, 0.2), (m.running_var, 0.6, 1.4), (m.weight, 0.8, 1.2), (m.bias, -0.2, 0.2),
            ):  # fmt: skip
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)


@pytest.fixture(scope="module")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm")


MODELS = {p.weights.removeprefix("timm:").partition(".")[0]: p for p in zoo() if p.weights.startswith("timm:")}


@pytest.mark.parametrize("name", MODELS)
def test_timm_gives_the_same_outputs(timm: Any, name: str) -> None:
    """To the parameter, and to 1e-4 with timm's random weights, by timm's names."""
    spec = small(MODELS[name])
    # FBNet-C's eps is TensorFlow's only where timm loads its weights
    theirs = timm.create_model(name, **({"bn_eps": 1e-3} if name == "fbnetc_100" else {})).eval()
    assert sum(p.numel() for p in theirs.parameters()) == count(spec).params
    assert theirs.bn1.eps == spec.bn_eps
    scatter(theirs)
    with torch.device("meta"):
        net = build(spec).eval()
    state = from_theirs(spec, FRAMEWORKS["timm"].names(spec), theirs.state_dict(), name)
    net.load_state_dict(state, assign=True)
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want, got = theirs(x), net(x)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


TORCHVISION = [p for p in zoo() if p.weights.startswith("torchvision:")]


@pytest.mark.parametrize("published", TORCHVISION, ids=lambda p: p.name)
def test_torchvision_has_as_many_parameters_and_the_same_eps(torchvision: Any, published: Published) -> None:
    with torch.device("meta"):
        net = getattr(torchvision.models, published.name)()
    assert sum(p.numel() for p in net.parameters()) == published.params
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {published.bn_eps}
    weights, member = published.weights.removeprefix("torchvision:").split(".")
    about = getattr(torchvision.models, weights)[member].meta
    assert round(about["_metrics"]["ImageNet-1K"]["acc@1"], 2) == published.top1


# ---- one network of each thing that few networks have --------------------------------------------------------

# swish, in squeeze-and-excitation too; a nonlinearity after the 1x1; hard swish in squeeze-and-excitation and features
# without a bias; expansions to as many channels; a first stage without a sum
FEW = ("tinynet_e", "lcnet_050", "fbnetv3_b", "fbnetc_100", "efficientnet_es", "tf_efficientnetv2_b0")


@pytest.mark.parametrize("name", FEW)
def test_graphs_give_the_outputs_of_torch(name: str) -> None:
    spec = small(MODELS[name])
    net = build(spec, 0).eval()
    scatter(net)
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    with torch.inference_mode():
        want = net(torch.from_numpy(x)).numpy()
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    session = onnxruntime.InferenceSession(network_model(spec, state), providers=["CPUExecutionProvider"])
    [onnx] = session.run(None, {"input": x})
    assert relative(onnx, want) < 1e-4
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(
        model_content=network_tflite(spec, state), num_threads=1
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    assert relative(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), want) < 1e-4


@pytest.mark.parametrize("name", ["tinynet_e", "lcnet_050", "fbnetc_100"])
def test_cuts_keep_what_a_row_says_and_inherit_its_weights(name: str) -> None:
    spec = small(MODELS[name])
    state = build(spec, 0).state_dict()
    for site in sites(spec, "width")[::4]:
        smaller = cut(spec, site, channels(spec, site) // 2)
        assert smaller is not None
        assert [r.extras() for r in smaller.rows] == [r.extras() for r in spec.rows]
        build(smaller, 0).load_state_dict(cut_state(state, spec, smaller))
        assert imagenet(smaller).value < imagenet(spec).value


def relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", FEW)
def test_a_file_for_timm_gives_the_same_outputs(timm: Any, name: str, tmp_path: Any) -> None:
    spec = replace(small(MODELS[name]), padding="both")
    net = build(spec, 0).eval()
    scatter(net)
    for file, content in export(spec, net.state_dict(), "timm").files.items():
        (tmp_path / file).write_bytes(content)
    scope: dict[str, Any] = {"__file__": str(tmp_path / "mobilenetv3.py"), "__name__": "written"}
    exec(compile((tmp_path / "mobilenetv3.py").read_text(), "mobilenetv3.py", "exec"), scope)
    theirs = scope["build"]()
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want, got = net(x), theirs(x)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    back = import_state(spec, theirs.state_dict(), "timm")
    assert all(torch.equal(back[k], v) for k, v in net.state_dict().items() if v.is_floating_point())


def test_weights_of_another_network_are_refused(timm: Any) -> None:
    spec = small(MODELS["lcnet_050"])
    with pytest.raises(BadInput, match="not the weights of this network"):
        import_state(spec, timm.create_model("tinynet_e").state_dict(), "timm")
