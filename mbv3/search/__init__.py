"""Reward, samplers, study, and the ImageNet predictor. Accuracy and latency come in as callables."""

from mbv3.search.predictor import ImagenetPredictor, imagenet_top1
from mbv3.search.reward import REWARDS, Reward, make_reward, register_reward
from mbv3.search.samplers import SAMPLERS, EvolutionSampler, RnnSampler, register_sampler
from mbv3.search.solver import Limit, Solved, solve
from mbv3.search.study import Search, Trial, pareto

__all__ = [
    "REWARDS",
    "SAMPLERS",
    "EvolutionSampler",
    "ImagenetPredictor",
    "Limit",
    "Reward",
    "RnnSampler",
    "Search",
    "Solved",
    "Trial",
    "imagenet_top1",
    "make_reward",
    "pareto",
    "register_reward",
    "register_sampler",
    "solve",
]
