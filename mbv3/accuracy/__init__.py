"""ACC: how accurate a network is, with its error, its source and the training that it holds for."""

from mbv3.accuracy.estimate import Difference, Estimate
from mbv3.accuracy.imagenet import difference, imagenet, recipes
from mbv3.accuracy.model import OFA, PAPER
from mbv3.accuracy.of_space import SpaceTop1, imagenet_space
from mbv3.accuracy.zoo import Published, zoo

__all__ = [
    "OFA",
    "PAPER",
    "Difference",
    "Estimate",
    "Published",
    "SpaceTop1",
    "difference",
    "imagenet",
    "imagenet_space",
    "recipes",
    "zoo",
]
