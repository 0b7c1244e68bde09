"""A classifier of new classes on the features of a trained network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import ImageSet, normalise
from mbv3.nn import Network, statistics

__all__ = ["learn_head"]

BATCH = 64
ITERATIONS = 100  # of L-BFGS


def learn_head(net: Network, data: ImageSet, size: tuple[int, int]) -> None:
    """Put the multinomial logistic regression from the features of `data` at `size` (height, width) to its labels into
    the classifier of `net`, in place; nothing else changes. The features are standardised, and |W|^2 / 2 for all images
    together is the penalty, as is usual."""
    classifier = net.head.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    device, parts = classifier.weight.device, list[Tensor]()
    net.eval()
    # the dropout comes right before the classifier, and lets everything through here
    hook = net.head.get_submodule("dropout").register_forward_hook(lambda module, given, out: parts.append(out))
    try:
        for start in range(0, len(data), BATCH):
            some = np.arange(start, min(start + BATCH, len(data)))
            with torch.no_grad():
                net(normalise(np.ascontiguousarray(data.images[some]), size, device, statistics(net)))
    finally:
        hook.remove()
    x, y = torch.cat(parts).double(), torch.from_numpy(np.asarray(data.labels)).to(device)
    mean, std = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / std
    weight = torch.zeros(classifier.weight.shape, dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, device=device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = functional.cross_entropy(x @ weight.T + bias, y) + weight.square().sum() / (2 * len(y))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        scaled = weight / std
        classifier.weight.copy_(scaled)
        classifier.bias.copy_(bias - scaled @ mean)
