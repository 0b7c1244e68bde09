"""Reward, samplers, study and solver. Accuracy and latency come in as callables."""

from mbv3.search.bound import upper_bound
from mbv3.search.reward import REWARDS, Reward, make_reward, register_reward
from mbv3.search.samplers import SAMPLERS, EvolutionSampler, RnnSampler, register_sampler
from mbv3.search.solver import Limit, Solved, solve
from mbv3.search.study import Search, Trial, pareto

__all__ = [
    "REWARDS",
    "SAMPLERS",
    "EvolutionSampler",
    "Limit",
    "Reward",
    "RnnSampler",
    "Search",
    "Solved",
    "Trial",
    "make_reward",
    "pareto",
    "register_reward",
    "register_sampler",
    "solve",
    "upper_bound",
]
