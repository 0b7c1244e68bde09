"""An accuracy with what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Difference", "Estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An accuracy: higher is better.

    `why` names what lies outside the evidence; it is empty where `extrapolated` is False.
    """

    value: float  # percent top-1
    error: float  # standard error, points
    source: str  # what it comes from
    recipe: str  # the training that it holds for
    extrapolated: bool = False
    why: str = ""

    def __str__(self) -> str:
        far = f", extrapolated: {self.why}" if self.extrapolated else ""
        return f"{self.value:.1f} ± {self.error:.1f} % ({self.recipe}{far})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better one network is than another after one training: points, with the standard error of that."""

    value: float
    error: float
    recipe: str

    @property
    def above(self) -> bool:
        """Better beyond the error."""
        return self.value > self.error
