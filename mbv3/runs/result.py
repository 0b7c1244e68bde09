"""What a search hands over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.record import Accuracy, SearchRecord, as_json
from mbv3.spec import ArchSpec, read_spec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Found", "times_text"]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of `mbv3.find` and `mbv3.adapt`: the run directory `folder` and its record."""

    folder: Path
    record: SearchRecord

    @property
    def spec(self) -> ArchSpec:
        """The found network."""
        return read_spec(self.folder / (self.record.spec or "mobilenetv3.yaml"))

    @property
    def weights(self) -> Path | None:
        """Its weights, a safetensors file; None where nothing was trained."""
        file = self.folder / "weights.safetensors"
        return file if file.exists() else None

    @property
    def report(self) -> Path:
        """The run as one HTML page."""
        return self.folder / "report.html"

    @property
    def predicted_ms(self) -> float | None:
        """Milliseconds as the table predicts them."""
        return self.record.predicted_ms

    @property
    def measured_ms(self) -> float | None:
        """Milliseconds of the whole network; None where nothing was timed."""
        return self.record.measured_ms

    @property
    def error_ms(self) -> float | None:
        """Standard error of `measured_ms`."""
        return self.record.measured_error_ms

    @property
    def accuracy(self) -> Accuracy | None:
        """Accuracy in percent, with what it means."""
        return self.record.accuracy

    @property
    def baselines(self) -> pd.DataFrame:
        """Networks beside the found one: name, ms, accuracy and, where they were trained alike, more columns."""
        import pandas as pd

        rows = self.record.comparison or self.record.baselines or self.record.references
        return pd.DataFrame([{n: getattr(r, n) for n in r.__slots__} for r in rows])

    @property
    def curve(self) -> pd.DataFrame:
        """Every network that NetAdapt passed: step, latency_ms, accuracy, and the YAML of the network."""
        import pandas as pd

        steps = pd.read_csv(self.folder / "netadapt.csv")
        passed = steps[steps["chosen"] == 1][["step", "latency_ms", "accuracy"]].reset_index(drop=True)
        files = {int(p.name.partition("_")[0]): p for p in (self.folder / "curve").glob("*.yaml")}
        return passed.assign(spec=[str(files.get(int(step), "")) for step in passed["step"]])

    def as_dict(self) -> dict[str, Any]:
        """The content of run.json."""
        return as_json(self.record)


def times_text(record: SearchRecord) -> dict[str, str]:
    """`measured`, with its standard error, and `predicted` as they are printed."""
    ms, error, predicted = record.measured_ms, record.measured_error_ms, record.predicted_ms or 0.0
    digits = 2 if predicted >= 10 else 3
    measured = "not measured"
    if ms is not None:
        measured = f"{ms:.{digits}f}" + (f" +- {error:.{digits}f}" if error is not None else "") + " ms"
    return {"measured": measured, "predicted": f"{predicted:.{digits}f} ms"}
