"""The record of NetAdapt: every proposal, the networks passed on the way, and what a resume needs."""

from __future__ import annotations

import math
from typing import Any

from mbv3.netadapt import Scored, Start, Step
from mbv3.spec import dump_spec, parse_spec
from mbv3.stages.adapt_tune import Deployed
from mbv3.stages.curve import TakenUp, curve_file, forget_after, keep_passed
from mbv3.stages.keep import Keep
from mbv3.training import load_checkpoint, save_checkpoint

__all__ = ["COLUMNS", "Trace", "seed_row", "step_rows"]

COLUMNS = (
    "step", "proposal", "kind", "where", "before", "after", "latency_ms", "delta_ms", "accuracy", "delta_accuracy",
    "loss", "score", "chosen",
)  # fmt: skip


def seed_row(scored: Scored) -> dict[str, Any]:
    """The network that the first step departs from."""
    empty = dict.fromkeys(("before", "after", "delta_ms", "delta_accuracy", "score"), "")
    return {
        "step": 0, "proposal": 0, "kind": "seed", "where": "", **empty,
        "latency_ms": f"{scored.latency_ms:.6f}", "accuracy": f"{scored.accuracy:.4f}",
        "loss": f"{scored.loss:.6f}", "chosen": 1,
    }  # fmt: skip


def step_rows(step: Step, before: Scored) -> list[dict[str, Any]]:
    """Every proposal of a step."""
    return [
        {
            "step": step.after.step,
            "proposal": i,
            "kind": c.proposal.site.kind,
            "where": str(c.proposal.site),
            "before": c.proposal.before,
            "after": c.proposal.after,
            "latency_ms": f"{c.scored.latency_ms:.6f}",
            "delta_ms": f"{c.scored.latency_ms - before.latency_ms:.6f}",
            "accuracy": _known(c.scored.accuracy, 4),
            "delta_accuracy": _known(c.scored.accuracy - before.accuracy, 4),
            "loss": _known(c.scored.loss, 6),
            "score": f"{c.ratio:.6f}",
            "chosen": int(i == step.chosen),
        }
        for i, c in enumerate(step.candidates)
    ]


def _known(value: float, digits: int) -> str:
    """Nothing for a proposal that was not fine-tuned."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


class Trace:
    """netadapt.csv, the curve and the checkpoint, written after every step."""

    def __init__(self, keep: Keep, deployed: Deployed) -> None:
        self.keep, self.deployed, self.latency = keep, deployed, deployed.latency
        self.rows: list[dict[str, Any]] = []

    @property
    def seed_ms(self) -> float:
        return float(self.rows[0]["latency_ms"])

    def seed(self, start: Start) -> None:
        self.rows = [seed_row(start.scored)]
        self.write(start)

    def step(self, step: Step, before: Scored) -> None:
        self.rows += step_rows(step, before)
        self.write(step.after)

    def take_up(self, taken: TakenUp) -> Start:
        """Begin with the network that another run passed; its steps until there are this run's."""
        self.rows, self.latency.correction = [dict(row) for row in taken.rows], taken.correction
        if taken.now.step:
            keep_passed(self.keep, taken.start, taken.correction)
        self.write(taken.now)
        return taken.now

    def write(self, start: Start) -> None:
        self.keep.write_rows("netadapt.csv", COLUMNS, self.rows)
        passed = self.deployed.spec(start.spec)
        self.keep.text(curve_file(start), dump_spec(passed))
        keep_passed(self.keep, start, self.latency.correction)
        table, checkpoint = self.keep.file("latency-table.csv"), self.keep.file("netadapt.safetensors")
        if table is not None:
            self.latency.table.save(table)
        if checkpoint is not None:
            s = start.scored
            meta = {
                "step": start.step,
                "spec": dump_spec(start.spec),
                "scored": [s.latency_ms, s.accuracy, s.loss],
                "correction": self.latency.correction,
            }
            save_checkpoint(checkpoint, {"net": start.state}, meta)

    def restore(self) -> Start | None:
        """The network after the last whole step of an interrupted run."""
        checkpoint = self.keep.file("netadapt.safetensors")
        found = load_checkpoint(checkpoint) if checkpoint is not None else None
        if found is None:
            return None
        parts, meta = found
        self.rows = [row for row in self.keep.rows("netadapt.csv") if int(row["step"]) <= meta["step"]]
        self.latency.correction = float(meta["correction"])
        start = Start(
            int(meta["step"]), parse_spec(meta["spec"], "netadapt.safetensors"), parts["net"], Scored(*meta["scored"])
        )
        forget_after(self.keep, start.step)
        return start
