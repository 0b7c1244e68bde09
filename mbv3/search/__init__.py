"""Reward, samplers, study and solver. Accuracy and latency come in as callables."""

from mbv3.search.aim import Aim, Genomes, around
from mbv3.search.bound import upper_bound
from mbv3.search.evolution import EvolutionSampler, RandomSampler
from mbv3.search.optuna_sampler import OptunaSampler
from mbv3.search.proposer import Proposer, Rewards
from mbv3.search.reward import LIMIT, OWN_REWARDS, REWARDS, Reward, make_reward, register_reward
from mbv3.search.rnn import RnnSampler
from mbv3.search.samplers import OWN_SAMPLERS, SAMPLERS, make_sampler, register_sampler
from mbv3.search.shared import SharedSearch, Standing, space_mark, worker_name
from mbv3.search.solver import Limit, Solved, solve
from mbv3.search.storage import absolute_storage, check_storage, open_storage, storage_name
from mbv3.search.study import Search, Trial, pareto
from mbv3.search.study_book import Offered, check_study, offered
from mbv3.search.surrogate import SurrogateSampler

__all__ = [
    "LIMIT",
    "OWN_REWARDS",
    "OWN_SAMPLERS",
    "REWARDS",
    "SAMPLERS",
    "Aim",
    "EvolutionSampler",
    "Genomes",
    "Limit",
    "Offered",
    "OptunaSampler",
    "Proposer",
    "RandomSampler",
    "Reward",
    "Rewards",
    "RnnSampler",
    "Search",
    "SharedSearch",
    "Solved",
    "Standing",
    "SurrogateSampler",
    "Trial",
    "absolute_storage",
    "around",
    "check_storage",
    "check_study",
    "make_reward",
    "make_sampler",
    "offered",
    "open_storage",
    "pareto",
    "register_reward",
    "register_sampler",
    "solve",
    "space_mark",
    "storage_name",
    "upper_bound",
    "worker_name",
]
