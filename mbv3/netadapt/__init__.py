"""NetAdapt as MobileNetV3 uses it: proposals, choice, run. Accuracy and latency are arguments."""

from mbv3.netadapt.choose import Scored, choose
from mbv3.netadapt.proposals import Proposal, propose
from mbv3.netadapt.run import Candidate, Start, Step, netadapt

__all__ = ["Candidate", "Proposal", "Scored", "Start", "Step", "choose", "netadapt", "propose"]
