"""How the minutes of a run are shared out, and who decides how much is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SHARES", "Budget", "Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """A part's share of the budget, and the most seconds that it takes."""

    share: float
    most_s: float = float("inf")


# Of a run that trains; the table, the measurements and the report take minutes of their own. What is delivered trains
# for at least half of them: a part that ends early leaves it more.
SHARES = {
    "shapes": Share(0.05, 600.0),  # input sizes and strides, by one network
    "supernet": Share(0.15),  # training of the shared weights
    "ranking": Share(0.05),  # trainings alone that check the order of the shared weights
    "candidates": Share(0.2),  # --accuracy train: all candidates together
    "search": Share(0.05),  # scores from shared weights
    "start": Share(0.03, 600.0),  # training of the network that NetAdapt starts from
    "netadapt": Share(0.1),
    "contenders": Share(0.1, 3600.0),  # the rounds that drop half of the found network and the baselines
    "training": Share(0.5),  # the delivered network, at least
    # the next four: of a run that starts from weights (--init)
    "start-tuned": Share(0.1, 1200.0),  # the uncut start, which teaches
    "cuts": Share(0.08),  # fine-tuning of all candidates while they are cut
    "cuts-measured": Share(0.15),  # all candidates measured whole while they are cut
    "candidates-halved": Share(0.12),  # all rounds that drop candidates; the rest: stages/road_pace.py
}


@dataclass(frozen=True, slots=True)
class Budget:
    """The minutes of a run with images. `timed`: amounts follow this machine's speed; where nothing is timed, the same
    table gives the same network on every machine, so the amounts are fixed ones."""

    minutes: float
    timed: bool = True

    def seconds(self, part: str) -> float:
        """Seconds that `part` of SHARES may take."""
        share = SHARES[part]
        return min(60 * self.minutes * share.share, share.most_s)

    def amount(self, by_hand: int | None, untimed: int, measured: Callable[[], float]) -> int:
        """Steps or trials: as given by hand, else `untimed` where nothing is timed, else what this machine does in
        the time, which `measured` finds out."""
        if by_hand is not None:
            return by_hand
        return int(measured()) if self.timed else untimed
