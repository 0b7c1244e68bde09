"""ACC: how accurate a network is, with its error, its source and the training that it holds for."""

from mbv3.accuracy.estimate import Estimate
from mbv3.accuracy.imagenet import imagenet, imagenet_space, recipes
from mbv3.accuracy.model import PAPER
from mbv3.accuracy.zoo import Published, zoo

__all__ = ["PAPER", "Estimate", "Published", "imagenet", "imagenet_space", "recipes", "zoo"]
