"""The record of joint cuts: a row a round, the networks passed on the way, and what a resume needs."""

from __future__ import annotations

from typing import Any

from mbv3.netadapt import Scored, Start
from mbv3.spec import all_sites, channels, dump_spec, parse_spec
from mbv3.stages.adapt_trace import COLUMNS, seed_row
from mbv3.stages.adapt_tune import Deployed
from mbv3.stages.curve import TakenUp, curve_file, forget_after, keep_passed
from mbv3.stages.keep import Keep
from mbv3.training import load_checkpoint, save_checkpoint

__all__ = ["SITES", "ShrinkTrace"]

SITES = ("round", "kind", "where", "before", "after")
CHECKPOINT = "netadapt.safetensors"


class ShrinkTrace:
    """netadapt.csv with one row a round, cuts.csv with one a site and round, the curve and the checkpoint."""

    def __init__(self, keep: Keep, deployed: Deployed) -> None:
        self.keep, self.deployed = keep, deployed
        self.rows: list[dict[str, Any]] = []
        self.cuts: list[dict[str, Any]] = []
        self.begun: tuple[int, float] = (0, 0.0)  # step and ms of the network that the first round of this run cuts

    def seed(self, start: Start) -> None:
        """The uncut network."""
        self.rows, self.begun = [seed_row(start.scored)], (0, start.scored.latency_ms)
        self._write(start, start, cut=False)

    def take_up(self, taken: TakenUp) -> tuple[Start, Start, bool]:
        """Begin with the network that another run passed, whose rounds until there are this run's; as `restore`."""
        self.rows, self.cuts = [dict(row) for row in taken.rows], [dict(row) for row in taken.cuts]
        self.begun = (taken.now.step, taken.now.scored.latency_ms)
        self.deployed.latency.correction = taken.correction
        if taken.now.step:
            keep_passed(self.keep, taken.start, taken.correction)
        self._write(taken.start, taken.now, cut=False)
        return taken.start, taken.now, False

    def cut(self, start: Start, before: Start, after: Start) -> None:
        """A round's cuts, before the fine-tuning."""
        for site in all_sites(before.spec):
            was, now = channels(before.spec, site), channels(after.spec, site)
            if was != now:
                row = {"round": after.step, "kind": site.kind, "where": str(site), "before": was, "after": now}
                self.cuts.append(row)
        self._write(start, after, cut=True)

    def tuned(self, start: Start, now: Start) -> None:
        """A round is over."""
        mine = [row for row in self.cuts if int(row["round"]) == now.step]
        last = next(row for row in reversed(self.rows) if str(row["chosen"]) == "1")
        ms, accuracy = now.scored.latency_ms, now.scored.accuracy
        delta_ms, points = ms - float(last["latency_ms"]), accuracy - float(last["accuracy"])
        self.rows.append(
            {
                "step": now.step, "proposal": 0, "kind": "joint", "where": f"{len(mine)} sites",
                "before": sum(int(row["before"]) for row in mine), "after": sum(int(row["after"]) for row in mine),
                "latency_ms": f"{ms:.6f}", "delta_ms": f"{delta_ms:.6f}", "accuracy": f"{accuracy:.4f}",
                "delta_accuracy": f"{points:.4f}", "loss": f"{now.scored.loss:.6f}",
                "score": f"{points / max(abs(delta_ms), 1e-9):.6f}", "chosen": 1,
            }
        )  # fmt: skip
        self._write(start, now, cut=False)

    def _write(self, start: Start, now: Start, cut: bool) -> None:
        keep, latency = self.keep, self.deployed.latency
        keep.write_rows("netadapt.csv", COLUMNS, self.rows)
        keep.write_rows("cuts.csv", SITES, self.cuts)
        if not cut:
            keep.text(curve_file(now), dump_spec(self.deployed.spec(now.spec)))
            keep_passed(keep, now, latency.correction)
        table, checkpoint = keep.file("latency-table.csv"), keep.file(CHECKPOINT)
        if table is not None:
            latency.table.save(table)
        if checkpoint is not None:
            meta = {
                "cut": cut, "correction": latency.correction, "start": _meta(start), "now": _meta(now),
                "begun": self.begun,
            }  # fmt: skip
            save_checkpoint(checkpoint, {"start": start.state, "now": now.state}, meta)

    def restore(self) -> tuple[Start, Start, bool] | None:
        """(the uncut network, the last one, whether it was cut and not yet fine-tuned) of an interrupted run."""
        checkpoint = self.keep.file(CHECKPOINT)
        found = load_checkpoint(checkpoint) if checkpoint is not None else None
        if found is None:
            return None
        parts, meta = found
        start, now = (
            Start(int(m["step"]), parse_spec(m["spec"], CHECKPOINT), parts[name], Scored(*m["scored"]))
            for name, m in ((name, meta[name]) for name in ("start", "now"))
        )
        done = now.step - bool(meta["cut"])
        self.rows = [row for row in self.keep.rows("netadapt.csv") if int(row["step"]) <= done]
        self.cuts = [row for row in self.keep.rows("cuts.csv") if int(row["round"]) <= now.step]
        self.deployed.latency.correction = float(meta["correction"])
        begun = meta.get("begun", (0, start.scored.latency_ms))  # a run of before has none
        self.begun = (int(begun[0]), float(begun[1]))
        forget_after(self.keep, done)
        return start, now, bool(meta["cut"])


def _meta(s: Start) -> dict[str, Any]:
    return {
        "step": s.step, "spec": dump_spec(s.spec),
        "scored": [s.scored.latency_ms, s.scored.accuracy, s.scored.loss],
    }  # fmt: skip
