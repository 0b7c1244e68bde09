"""The networks that cuts passed, with their weights and scores: what another target starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.netadapt import Scored, Start
from mbv3.spec import ArchSpec, dump_spec, parse_spec
from mbv3.stages.keep import Keep
from mbv3.training import checkpoint_meta, load_checkpoint, save_checkpoint

__all__ = [
    "CURVE",
    "Passed",
    "TakenUp",
    "curve_file",
    "forget_after",
    "keep_passed",
    "nearest",
    "passed_in",
    "taken_up",
]

CURVE = "curve"
HALVED = 1e-3  # of a tensor's root mean square, that its rounding to 16 bits may be off by
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Passed:
    """A network on the way, the uncut one at step 0: `file` holds its weights. `scored`: as NetAdapt scored it;
    `correction`: of predictions at that time, measured over predicted."""

    file: Path
    step: int
    spec: ArchSpec
    scored: Scored
    correction: float

    def start(self) -> Start:
        """With its weights. Raises: BadInput."""
        found = load_checkpoint(self.file)
        if found is None or "net" not in found[0]:
            raise BadInput(f"{self.file}: holds no network; restore it")
        state = {k: v.float() if v.dtype == torch.float16 else v for k, v in found[0]["net"].items()}
        return Start(self.step, self.spec, state, self.scored)


@dataclass(frozen=True)
class TakenUp:
    """Where cuts that led to one target are taken up for another: `start` uncut, `now` the network that is cut on,
    `correction` of predictions near it, and the rows of netadapt.csv and cuts.csv up to it."""

    start: Start
    now: Start
    correction: float
    rows: Rows
    cuts: Rows


def curve_file(start: Start, kind: str = "yaml") -> str:
    """Name of a file of a network that was passed."""
    return f"{CURVE}/{start.step:03d}_{start.scored.latency_ms:.3f}ms.{kind}"


def keep_passed(keep: Keep, start: Start, correction: float) -> None:
    """Write the weights and the scores of a network that was passed; nothing where `keep` has no files.

    The uncut network is kept as it is, for it teaches. The others are fine-tuned again by whoever takes them up: their
    kernels are kept in 16 bits where that rounds them by a thousandth at most."""
    file = keep.file(curve_file(start, "safetensors"))
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    s = start.scored
    meta = {
        "step": start.step, "spec": dump_spec(start.spec), "scored": [s.latency_ms, s.accuracy, s.loss],
        "correction": correction,
    }  # fmt: skip
    state = start.state if start.step == 0 else {k: _halved(v) for k, v in start.state.items()}
    save_checkpoint(file, {"net": state}, meta)


def _halved(value: Tensor) -> Tensor:
    """In 16 bits where that loses next to nothing; biases, scales and statistics of batch norms stay as they are."""
    if value.dim() < 2 or value.dtype != torch.float32:
        return value
    half = value.half()
    apart, size = (half.float() - value).square().mean().sqrt(), value.square().mean().sqrt()
    return half if bool(torch.isfinite(half).all()) and apart <= HALVED * size else value


def forget_after(keep: Keep, step: int) -> None:
    """Remove what lies in the curve beyond `step`: of a step that was interrupted."""
    folder = keep.file(CURVE)
    for file in folder.glob("*_*ms.*") if folder is not None else ():
        if int(file.name.split("_")[0]) > step:
            file.unlink()


def passed_in(run: Path) -> tuple[Passed, ...]:
    """The networks on the way that a run directory keeps with their weights, the uncut one first.

    Raises:
        BadInput: a file of them cannot be read.
    """
    found = []
    for file in sorted((run / CURVE).glob("*_*ms.safetensors")):
        meta = checkpoint_meta(file)
        try:
            spec, scored = parse_spec(meta["spec"], str(file)), Scored(*map(float, meta["scored"]))
            found.append(Passed(file, int(meta["step"]), spec, scored, float(meta["correction"])))
        except (KeyError, TypeError, ValueError) as e:
            raise BadInput(f"{file}: is not as a run leaves it ({type(e).__name__}: {e}); restore it") from None
    return tuple(sorted(found, key=lambda p: p.step))


def nearest(networks: Sequence[Passed], target_ms: float) -> Passed | None:
    """The fastest of `networks` that takes more than `target_ms`; None where all are within it."""
    slower = [p for p in networks if p.scored.latency_ms > target_ms]
    return min(slower, key=lambda p: p.scored.latency_ms) if slower else None


def taken_up(networks: Sequence[Passed], target_ms: float, rows: Rows, cuts: Rows) -> TakenUp:
    """`nearest` of `networks`, the uncut one first, with its weights. `rows` and `cuts`: all of netadapt.csv and of
    cuts.csv.

    Raises:
        BadInput: none of the networks takes more than the target.
    """
    now = nearest(networks, target_ms)
    if now is None or networks[0].step != 0:
        raise BadInput(f"a target of {target_ms:g} ms: no network on the way takes more")
    start = networks[0].start()
    return TakenUp(
        start, start if now.step == 0 else now.start(), now.correction,
        [row for row in rows if int(row["step"]) <= now.step], [row for row in cuts if int(row["round"]) <= now.step],
    )  # fmt: skip
