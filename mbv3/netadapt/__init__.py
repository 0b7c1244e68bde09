"""NetAdapt as MobileNetV3 uses it: proposals, choice, run; and joint cuts of all sites. Accuracy and latency are
arguments."""

from mbv3.netadapt.choose import Scored, choose
from mbv3.netadapt.explained import explained, lost
from mbv3.netadapt.importance import IMPORTANCES, Importance, Scores, channel_scores, maker_of, site_scores
from mbv3.netadapt.joint import Choice, Menu, menus, refined, solve
from mbv3.netadapt.proposals import Proposal, propose
from mbv3.netadapt.race import Inherit, Job, Lost, Paired, Tried, TuneMany, largest, netadapt_paired, paired
from mbv3.netadapt.run import Candidate, Start, Step, netadapt

__all__ = [
    "IMPORTANCES",
    "Candidate",
    "Choice",
    "Importance",
    "Inherit",
    "Job",
    "Lost",
    "Menu",
    "Paired",
    "Proposal",
    "Scored",
    "Scores",
    "Start",
    "Step",
    "Tried",
    "TuneMany",
    "channel_scores",
    "choose",
    "explained",
    "largest",
    "lost",
    "maker_of",
    "menus",
    "netadapt",
    "netadapt_paired",
    "paired",
    "propose",
    "refined",
    "site_scores",
    "solve",
]
