"""Weights from elsewhere: what fits, and everything that does not at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mbv3.errors import BadInput
from mbv3.training import adopt


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.stem, net.head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Linear(4, classes)
    return net


def test_all_weights_or_all_but_the_head() -> None:
    theirs = {k: v + 1 for k, v in network().state_dict().items()}
    net = network()
    assert adopt(net, theirs, "w") == []
    assert all(torch.equal(v, theirs[k]) for k, v in net.state_dict().items() if v.is_floating_point())
    other = network(5)
    assert adopt(other, theirs, "w") == ["head.weight", "head.bias"]
    assert torch.equal(other.state_dict()["stem.0.weight"], theirs["stem.0.weight"])
    assert torch.equal(other.state_dict()["head.weight"], network(5).state_dict()["head.weight"])
    without = {k: v for k, v in theirs.items() if "num_batches" not in k}
    assert adopt(network(), without, "w") == []


def test_another_network_is_refused_with_everything_that_differs() -> None:
    state = network().state_dict()
    state["stem.0.weight"] = torch.zeros(9, 3, 1, 1)
    state["more.weight"] = torch.zeros(1)
    del state["stem.1.bias"]
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(BadInput) as e:
        adopt(net, state, "w.safetensors")
    text = str(e.value)
    assert text.startswith("w.safetensors: weights of another network")
    assert "1 missing: stem.1.bias" in text and "1 not in this network: more.weight" in text
    assert "1 of another shape: stem.0.weight (9, 3, 1, 1), here (4, 3, 1, 1)" in text
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with pytest.raises(BadInput, match=r"1 of another shape: head.weight") as e:
        adopt(network(5), {**network().state_dict(), "head.bias": torch.zeros(5)}, "w", new_head=False)
