"""What a training gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.errors import BadInput
from mbv3.runs.rundir import RunDir
from mbv3.spec import ArchSpec, parse_spec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A trained network in its run directory `folder`. `metrics` are in percent, over the `n` images of `judged_on`
    (test, or held-out where there is no test set). `record` is run.json."""

    folder: Path
    spec: ArchSpec
    metrics: Mapping[str, float]
    judged_on: str
    n: int
    record: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, folder: Path | str) -> TrainResult:
        """The result of a finished run. Raises: BadInput."""
        folder = Path(folder)
        record = RunDir.open(folder, "mbv3-train/1").record
        if record["status"] != "done":
            raise BadInput(f"{folder}: its training is not finished; go on with: mbv3 train --resume {folder}")
        spec = parse_spec((folder / "network.yaml").read_text("utf-8"), str(folder / "network.yaml"))
        return cls(
            folder=folder, spec=spec, metrics=record["metrics"], judged_on=record["judged_on"], n=record["n"],
            record=record,
        )  # fmt: skip

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / "weights.safetensors"

    @property
    def log(self) -> pd.DataFrame:
        """One row an epoch: loss, learning rate, speed, scores on the held-out images where they were taken."""
        import pandas as pd

        return pd.read_csv(self.folder / "log.csv")

    @property
    def summary(self) -> str:
        """The scores in one line."""
        scores = ", ".join(f"{k} {v:.2f} %" for k, v in self.metrics.items())
        return f"{scores} on {self.n} {self.judged_on} images; {self.record['total_s'] / 60:.1f} min"
