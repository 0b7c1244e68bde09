"""Networks of a supernet: within a measured time, settled on images, with a head that is learned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from mbv3.accuracy import OFA
from mbv3.data import normalise
from mbv3.errors import Unreachable
from mbv3.export import SharedWeights, read_supernet
from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.progress import drain
from mbv3.space import SearchSpace, load_space, scale
from mbv3.spec import ArchSpec
from mbv3.stages import best_within, imagenet_judge, learn_head, settled, space_latency
from mbv3.tables import Latency, Whole
from tests.drawn import CLASSES, drawn_images
from tests.ofa_weights import tensors


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedWeights:
    file = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    save_file(tensors(1.0), file)
    return read_supernet(file)


def smallest(classes: int, side: int) -> ArchSpec:
    space = scale(load_space("ofa-mbv3"), 1.0, side, classes)
    return space.spec(tuple(0 for _ in space.sizes), "smallest")


def test_batch_norms_are_those_of_the_images_at_the_size(shared: SharedWeights) -> None:
    images = drawn_images(64, 48, 0)
    found = {}
    for side in (32, 48):
        state = settled(smallest(CLASSES, side), shared, images)
        x = normalise(images.images[np.arange(len(images))], (side, side))
        y = torch.nn.functional.conv2d(x, state["stem.conv.weight"], stride=2, padding=1)
        torch.testing.assert_close(state["stem.bn.running_mean"], y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state["stem.bn.running_var"], y.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
        found[side] = state
    last = "tail.bn.running_var"
    assert not torch.allclose(found[32][last], found[48][last], rtol=1e-2)
    assert torch.equal(found[32]["tail.conv.weight"], shared.tensors["final_expand_layer.conv.weight"])
    assert found[32]["head.classifier.weight"].shape == (CLASSES, 1280)


def test_the_head_is_the_logistic_regression_on_the_features(shared: SharedWeights) -> None:
    images, size = drawn_images(96, 32, 1), (32, 32)
    net = build(smallest(CLASSES, 32), 0)
    net.load_state_dict(settled(smallest(CLASSES, 32), shared, images))
    torch.nn.init.zeros_(net.head.get_submodule("classifier").weight)  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn_head(net, images, size)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    seen: list[torch.Tensor] = []
    net.head.get_submodule("dropout").register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        logits = net.eval()(normalise(images.images[np.arange(len(images))], size))
    assert isinstance(logits, torch.Tensor)
    x = seen[0].double().numpy()
    x = (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-6)
    theirs = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(x, images.labels).predict_proba(x)
    np.testing.assert_allclose(logits.softmax(1).numpy(), theirs, atol=5e-3)
    assert (logits.argmax(1).numpy() == images.labels).mean() > 0.9


@dataclass
class Measured:
    """A latency whose device takes `times` as long as is predicted."""

    predicted: Latency
    times: float
    device: object = field(default_factory=object)
    correction: float = 1.0
    asked: list[ArchSpec] = field(default_factory=list)

    def measure(self, spec: ArchSpec, parts: int) -> Whole:
        return self.verdict(spec, 0.0)

    def verdict(self, spec: ArchSpec, target_ms: float) -> Whole:
        self.asked.append(spec)
        ms = self.times * self.predicted([spec])[0]
        return Whole(ms, 0.003 * ms, 1.0)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return scale(load_space("ofa-mbv3"), 1.0, 160)


@pytest.mark.parametrize("times", [0.9, 1.0, 1.15])
def test_a_network_is_within_the_target_as_measured(space: SearchSpace, phone: LatencyTable, times: float) -> None:
    latency = Latency(phone)
    here = Measured(latency, times)
    cost = space_latency(space, latency)
    target = 0.5 * sum(cost.range_ms())
    found = drain(
        best_within(space, imagenet_judge(space, OFA), cost, here, target),  # type: ignore[arg-type]
    )
    assert found.verdict is not None and found.verdict.most_ms <= target
    assert found.ms >= 0.96 * target and 1 <= len(here.asked) <= 4
    assert here.correction == pytest.approx(times, rel=1e-3)


def test_a_target_below_the_fastest(space: SearchSpace, phone: LatencyTable) -> None:
    latency = Latency(phone)
    cost = space_latency(space, latency)
    with pytest.raises(Unreachable, match="no network"):
        drain(best_within(space, imagenet_judge(space, OFA), cost, latency, 0.5 * cost.range_ms()[0]))


@pytest.fixture(scope="module")
def phone() -> LatencyTable:
    from mbv3.tables import read_table

    return read_table("note-10", "onnxruntime", 1, False)[0]
