"""What a training hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.record import TrainRecord, as_json
from mbv3.spec import ArchSpec, read_spec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainResult"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of `mbv3.train`: the run directory `folder` and its record."""

    folder: Path
    record: TrainRecord

    @property
    def spec(self) -> ArchSpec:
        """The trained network."""
        return read_spec(self.folder / "network.yaml")

    @property
    def weights(self) -> Path:
        """Its weights, a safetensors file."""
        return self.folder / "weights.safetensors"

    @property
    def metrics(self) -> Mapping[str, float]:
        """Scores in percent, over the `n` images of `judged_on`."""
        return {name: float("nan") if value is None else value for name, value in self.record.metrics.items()}

    @property
    def by_class(self) -> Mapping[str, float]:
        """The first of them by class, the lowest first; a class that no image has is left out."""
        known = {name: v for name, v in self.record.by_class.items() if v is not None}
        return dict(sorted(known.items(), key=lambda pair: pair[1]))

    @property
    def judged_on(self) -> str:
        """test, or held-out where there are no test images."""
        return self.record.judged_on or ""

    @property
    def n(self) -> int:
        """Images that the scores are of."""
        return self.record.n or 0

    @property
    def minutes(self) -> float:
        """What the training took, over all its resumes."""
        return (self.record.total_s or 0.0) / 60

    @property
    def log(self) -> pd.DataFrame:
        """One row an epoch: loss, learning rate, speed, scores on the held-out images where they were taken."""
        import pandas as pd

        return pd.read_csv(self.folder / "log.csv")

    @property
    def summary(self) -> str:
        """The scores in one line."""
        scores = ", ".join(f"{k} {v:.2f} %" for k, v in self.metrics.items())
        return f"{scores} on {self.n} {self.judged_on} images; {self.minutes:.1f} min"

    def as_dict(self) -> dict[str, Any]:
        """The content of run.json."""
        return as_json(self.record)
