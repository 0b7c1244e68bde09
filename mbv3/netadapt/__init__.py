"""NetAdapt as MobileNetV3 uses it: proposals, choice, run. Accuracy and latency come in as callables."""

from mbv3.netadapt.choose import Scored, choose
from mbv3.netadapt.proposals import Proposal, Site, channels, cut, propose, sites, smallest
from mbv3.netadapt.run import Candidate, Start, Step, netadapt

__all__ = [
    "Candidate", "Proposal", "Scored", "Site", "Start", "Step", "channels", "choose", "cut", "netadapt", "propose",
    "sites", "smallest",
]  # fmt: skip
