"""NetAdapt in a run: start weights, fine-tuning, the step's record, resume, whole-network corrections."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbv3.data import batch_order, make_batch
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.netadapt import Scored, Start, Step, netadapt, sites
from mbv3.nn import build
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.space import Genome
from mbv3.spec import ArchSpec, Dense, SSDLite, dump_spec, parse_spec
from mbv3.stages.judge import Images, Judge, calibration_batches, rescore, step_seconds, subset
from mbv3.tables import VERDICT_PARTS, Latency, Whole
from mbv3.training import (
    Diverged,
    Fit,
    fit,
    load_checkpoint,
    make_optimizer,
    one_step,
    recalibrate,
    save_checkpoint,
)

__all__ = ["Shrunk", "shrink"]

STAGE = "netadapt"
BATCH = 32
HELD_OUT = 512
CHECK = 0.04  # of the seed's ms cut: the network is measured whole, as predictions drift from it by a few percent
DELTA, MOST_DELTA = 0.01, 0.04  # of the seed's ms a step at least: as a rule, and where there is no time for so many
LEAST_T = 4  # steps of fine-tuning under which fewer, larger cuts are the better use of the time
AIM = 0.985  # of the target: the verdict asks for two of its own standard errors below the target, about 1 %


@dataclass(frozen=True)
class Shrunk:
    """What NetAdapt left: the network, its weights, predicted ms, the verdict (None without a device), accuracy at the
    size of the images."""

    spec: ArchSpec
    state: dict[str, Tensor]
    predicted_ms: float
    verdict: Whole | None
    accuracy: float
    reached: bool


class _FineTune:
    """T steps of SGD from the inherited weights, batch norms recalibrated, scored on held-out images.

    Every proposal of a step sees the same batches and is scored on the same images, so that their differences are
    those of the cuts.
    """

    def __init__(self, images: Images, steps: int, seed: int) -> None:
        self.images = images
        self.steps = steps
        self.seed = seed
        self.held = subset(images.held_out, HELD_OUT)

    def __call__(
        self, spec: ArchSpec, state: dict[str, Tensor], step: int, proposal: int
    ) -> tuple[dict[str, Tensor], float, float]:
        if not isinstance(spec.head, SSDLite):
            spec = replace(spec, head=replace(spec.head, dropout=0.0))
        net = build(spec, 0)
        net.load_state_dict(state)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()
        recipe = Fit(steps=max(self.steps, 1), size=self.images.size, batch=BATCH, lr=0.01, warmup=0.0, seed=self.seed)
        optimizer = make_optimizer(net, recipe)
        order = batch_order(len(self.images.train), min(BATCH, len(self.images.train)), self.seed, step * self.steps)
        for i in range(self.steps):
            rng = np.random.default_rng((self.seed, step, i))
            x, y = make_batch(self.images.train, next(order), self.images.size, rng)
            # the cosine would bring the last of a few steps to nothing: half-way only
            try:
                one_step(net, net, optimizer, x, y, replace(recipe, steps=2 * recipe.steps), i)
            except Diverged:  # this proposal is not finite and is not chosen; the others go on
                return state, math.nan, math.nan
        score = rescore(net, self.images, self.held, 2)
        return {k: v.detach().clone() for k, v in net.state_dict().items()}, score.top1, score.loss


def _with_classes(spec: ArchSpec, classes: int) -> ArchSpec:
    return replace(spec, head=replace(spec.head, classes=classes))


class _Deployed:
    """Latency of the network that will be deployed: NetAdapt works on one with the classifier of the images' classes,
    which for the built-in task is not the seed's own, and in a search under a dense head is none of the network's."""

    def __init__(self, latency: Latency, classes: int) -> None:
        self.latency, self.classes = latency, classes

    def spec(self, spec: ArchSpec) -> ArchSpec:
        return self.latency.dress(_with_classes(spec, self.classes))

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return self.latency([self.spec(s) for s in specs])

    def measure(self, spec: ArchSpec, parts: int) -> Whole | None:
        return self.latency.measure(self.spec(spec), parts)

    def correct(self, spec: ArchSpec, measured_ms: float) -> None:
        self.latency.correct(self.spec(spec), measured_ms)

    def state(self, spec: ArchSpec, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Weights of the deployed network; a dense head, or a classifier of other classes, is left as initialised."""
        deployed = self.spec(spec)
        fresh = build(deployed, seed).state_dict()
        own = ("head.", "aux.") if isinstance(deployed.head, Dense) else ()
        return {k: v if k.startswith(own) or state[k].shape != v.shape else state[k] for k, v in fresh.items()}


def _pretrain(
    options: Options, run: RunDir, spec: ArchSpec, images: Images, inherited: dict[str, Tensor] | None
) -> Iterator[Event | dict[str, Tensor]]:
    """Weights of the seed: inherited ones fine-tuned, or trained from scratch. Yields events, then the state."""
    plan: dict[str, Any] = run.record["plan"]
    net = build(spec, options.seed)
    if inherited is not None:
        net.load_state_dict(inherited)
    batch = min(BATCH, len(images.train))
    if "pretrain_steps" not in plan:
        seconds = min(7.5 * options.minutes, 75) if images.procedural else min(3 * options.minutes, 600)
        if options.finetune_steps is not None:  # fixed by hand: nothing may depend on this machine's speed
            plan["pretrain_steps"] = 4 * max(options.finetune_steps, 5)
        elif options.estimate_only:
            plan["pretrain_steps"] = 200
        else:
            plan["pretrain_steps"] = max(20, int(seconds / step_seconds(spec, images, batch)))
        run.save()
    steps = plan["pretrain_steps"]
    recipe = Fit(
        steps=steps,
        size=images.size,
        batch=batch,
        lr=5e-4 if inherited else 2e-3,
        optimizer="adamw",
        weight_decay=0.02,
        seed=options.seed,
    )
    what = "the seed's inherited weights" if inherited else "the seed"
    on = "the built-in task of procedurally generated images" if images.procedural else "your images"
    yield StageStart(STAGE, f"training {what} on {on}, {steps} steps")
    checkpoint = run.path / "seed-training.safetensors"
    yield from fit(net, images.train, recipe, stage=STAGE, checkpoint=checkpoint)
    yield {k: v.detach().clone() for k, v in net.state_dict().items()}


def _decide_steps(options: Options, run: RunDir, start: Start, images: Images, target_ms: float) -> tuple[int, float]:
    """T, the fine-tuning steps of a proposal, and the least cut of a step as a share of the seed's ms, so that all of
    it fits the time given; kept in the plan."""
    plan: dict[str, Any] = run.record["plan"]
    if "finetune_steps" not in plan:
        plan["delta"] = DELTA if options.delta is None else options.delta
        if options.finetune_steps is not None:
            plan["finetune_steps"] = options.finetune_steps
        elif options.estimate_only:  # nothing is timed, so that the same table gives the same network
            plan["finetune_steps"] = 3
        else:
            tuner = _FineTune(images, 1, options.seed)
            tuner(start.spec, start.state, 0, 0)
            t0 = time.monotonic()
            tuner(start.spec, start.state, 0, 0)
            t1 = time.monotonic()
            _FineTune(images, 5, options.seed)(start.spec, start.state, 0, 0)
            t2 = time.monotonic()
            per_step = max((t2 - t1 - (t1 - t0)) / 4, 1e-4)
            fixed = max(t1 - t0 - per_step, 1e-4)
            gap = max(start.scored.latency_ms - target_ms, 0) / start.scored.latency_ms
            given = (0.5 if images.procedural else 0.2) * options.minutes * 60

            def proposals(delta: float) -> float:
                return max(1.0, 0.8 * gap / delta) * len(sites(start.spec))

            if options.delta is None:
                needed = proposals(DELTA) * (fixed + LEAST_T * per_step)
                plan["delta"] = float(np.clip(DELTA * needed / given, DELTA, MOST_DELTA))
            n = proposals(plan["delta"])
            plan["finetune_steps"] = int(np.clip((given / n - fixed) / per_step, 1, 60))
            plan["netadapt_forecast_s"] = round(n * (fixed + plan["finetune_steps"] * per_step), 1)
            plan["netadapt_given_s"] = round(given, 1)
        run.save()
    return int(plan["finetune_steps"]), float(plan["delta"] if options.delta is None else options.delta)


def _keep_pace(options: Options, plan: dict[str, Any], now: tuple[int, float], pace: float) -> tuple[int, float]:
    """T and the least cut from here on. `now`: those until here, at which `pace` times the rest fits the time that is
    left, for the forecast knows neither the timing of layers that are not in the table nor what other programs take.
    Fewer steps of fine-tuning come first, then larger cuts; neither goes beyond the plan's own."""
    if "netadapt_given_s" not in plan:  # not paced by time
        return now
    first, least = int(plan["finetune_steps"]), float(plan["delta"])
    effort = max(min(pace * now[0] / now[1], first / least), 1e-9)  # the time goes with T over the cut
    delta = least if options.delta is not None else float(np.clip(min(LEAST_T, first) / effort, least, MOST_DELTA))
    return max(1, round(effort * delta)), delta


def _rows(step: Step, before: Scored) -> list[dict[str, Any]]:
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
            "accuracy": f"{c.scored.accuracy:.4f}",
            "delta_accuracy": f"{c.scored.accuracy - before.accuracy:.4f}",
            "loss": f"{c.scored.loss:.6f}",
            "score": f"{c.ratio:.6f}",
            "chosen": int(i == step.chosen),
        }
        for i, c in enumerate(step.candidates)
    ]


class _Record:
    """netadapt.csv, the curve and the checkpoint, written after every step."""

    def __init__(self, run: RunDir, deployed: _Deployed) -> None:
        self.run, self.deployed, self.latency = run, deployed, deployed.latency
        self.rows: list[dict[str, Any]] = []

    def seed(self, start: Start) -> None:
        empty = dict.fromkeys(("before", "after", "delta_ms", "delta_accuracy", "score"), "")
        self.rows = [
            {
                "step": 0, "proposal": 0, "kind": "seed", "where": "", **empty,
                "latency_ms": f"{start.scored.latency_ms:.6f}", "accuracy": f"{start.scored.accuracy:.4f}",
                "loss": f"{start.scored.loss:.6f}", "chosen": 1,
            }
        ]  # fmt: skip
        self.keep(start)

    def keep(self, start: Start) -> None:
        self.run.write_netadapt(self.rows)
        passed = self.deployed.spec(start.spec)
        self.run.write(f"curve/{start.step:03d}_{start.scored.latency_ms:.3f}ms.yaml", dump_spec(passed))
        self.latency.table.save(self.run.path / "latency-table.csv")
        s = start.scored
        meta = {
            "step": start.step,
            "spec": dump_spec(start.spec),
            "scored": [s.latency_ms, s.accuracy, s.loss],
            "correction": self.latency.correction,
        }
        save_checkpoint(self.run.path / "netadapt.safetensors", {"net": start.state}, meta)

    def restore(self) -> Start | None:
        found = load_checkpoint(self.run.path / "netadapt.safetensors")
        if found is None:
            return None
        parts, meta = found
        self.rows = list(self.run.read_netadapt(meta["step"]))
        self.latency.correction = float(meta["correction"])
        spec = parse_spec(meta["spec"], "netadapt.safetensors")
        start = Start(int(meta["step"]), spec, parts["net"], Scored(*meta["scored"]))
        for file in (self.run.path / "curve").glob("*.yaml"):
            if int(file.name.split("_")[0]) > start.step:
                file.unlink()
        return start


def shrink(
    options: Options, run: RunDir, genome: Genome, seed_spec: ArchSpec, judge: Judge, images: Images, latency: Latency
) -> Iterator[Event | Shrunk]:
    """Bring the seed down to the target; time the result whole; go on while it is over. Yields events, then Shrunk."""
    target = options.target_ms
    deployed = _Deployed(latency, seed_spec.head.classes if images.procedural else len(images.train.classes))
    record = _Record(run, deployed)
    tuner = _FineTune(images, 0, options.seed)
    start = record.restore()
    if start is None:
        spec = _with_classes(seed_spec, len(images.train.classes))
        state: dict[str, Tensor] = {}
        for event in _pretrain(options, run, spec, images, judge.weights(genome)):
            if isinstance(event, dict):
                state = event
            else:
                yield event
        net = build(spec, 0)
        net.load_state_dict(state)
        score = rescore(net, images, tuner.held, 2)
        state = {k: v.detach().clone() for k, v in net.state_dict().items()}
        measured = deployed.measure(spec, 4)
        if measured is not None:
            predicted = deployed([spec])[0]
            deployed.correct(spec, measured.ms)
            yield Note(
                STAGE,
                f"the seed takes {measured.ms:.3f} ms measured whole ({predicted:.3f} predicted); predictions are "
                f"scaled by {latency.correction:.3f} from here",
            )
        start = Start(0, spec, state, Scored(deployed([spec])[0], score.top1, score.loss))
        record.seed(start)
    else:
        yield Note(STAGE, f"going on after step {start.step}, {start.scored.latency_ms:.3f} ms")
    tuner.steps, least_share = _decide_steps(options, run, start, images, target)
    seed_ms = float(record.rows[0]["latency_ms"])
    delta = least_share * seed_ms
    gap = max(start.scored.latency_ms - target, 0.0)
    yield StageStart(
        STAGE,
        f"NetAdapt: {start.scored.latency_ms:.3f} -> {target:g} ms, at least {delta:.3f} ms a step, T = {tuner.steps} "
        f"steps a proposal, {len(sites(start.spec))} proposals a step",
        run.record["plan"].get("netadapt_forecast_s"),
    )
    # proposals are scored on the same images, so their differences are about half as noisy as an accuracy near 70 %
    noise = 0.5 * 100 * (0.7 * 0.3 / max(len(tuner.held), 1)) ** 0.5
    began = time.monotonic()
    first_gap = gap
    given = run.record["plan"].get("netadapt_given_s", 0.0) * gap / max(seed_ms - target, 1e-9)  # a resume's share
    aim = target * (AIM if latency.device is not None else 1.0)
    checked = seed_ms
    verdict: Whole | None = None
    while True:
        due = False
        for step in netadapt(start, aim, delta, deployed, tuner, noise=noise, fine=latency.fine):
            if step.chosen is None:
                yield _progress(step, start, first_gap, aim, began)
                continue
            record.rows += _rows(step, start.scored)
            start = step.after
            record.keep(start)
            c = step.candidates[step.chosen]
            yield Note(
                STAGE,
                f"step {start.step}: {c.proposal.site.kind} {c.proposal.site} {c.proposal.before} -> "
                f"{c.proposal.after}, {start.scored.latency_ms:.3f} ms, {start.scored.accuracy:.1f} %",
            )
            due = latency.device is not None and aim < start.scored.latency_ms < checked - CHECK * seed_ms
            if due:
                break
        if due:
            on_the_way = deployed.measure(start.spec, 4)
            assert on_the_way is not None
            before, checked = start.scored.latency_ms, on_the_way.ms
            start = _corrected(deployed, start, on_the_way)
            yield Note(STAGE, f"measured whole it takes {checked:.3f} ms ({before:.3f} predicted)")
            # no less than the measurement can tell, or its error would be taken for slowness
            done = max(first_gap - (checked - target), 2 * on_the_way.error_ms) / first_gap
            spent = time.monotonic() - began
            pace = max(given - spent, 0.0) / max(spent / done * (1 - done), 1e-9)
            now = _keep_pace(options, run.record["plan"], (tuner.steps, least_share), pace)
            if now != (tuner.steps, least_share):
                tuner.steps, least_share = now
                delta = least_share * seed_ms
                yield Note(STAGE, f"to keep to the time: T = {tuner.steps}, at least {delta:.3f} ms a step from here")
            continue
        verdict = deployed.measure(start.spec, VERDICT_PARTS)
        if verdict is None or verdict.most_ms <= target or start.scored.latency_ms > aim:
            break
        start = _corrected(deployed, start, verdict)
        aim = min(aim, 0.999 * verdict.ms)  # at least one step more
        off = f"{verdict.ms:.3f} +- {verdict.error_ms:.3f} ms"
        yield Note(STAGE, f"measured whole it takes {off}, not surely within {target:g}: NetAdapt goes on")
    reached = (verdict.ms if verdict else start.scored.latency_ms) <= target
    found = deployed.spec(start.spec)
    left = _at_own_size(found, deployed.state(start.spec, start.state, options.seed), images)
    yield Shrunk(found, left, start.scored.latency_ms, verdict, start.scored.accuracy, reached)


def _at_own_size(spec: ArchSpec, state: dict[str, Tensor], images: Images) -> dict[str, Tensor]:
    """`state` with batch-norm statistics of the network's own resolution, where it was trained at another: those of
    maps of a pixel are near no variance at all, and on larger maps single precision does not carry what comes of it."""
    if spec.resolution == images.size:
        return state
    net = build(spec, 0)
    net.load_state_dict(state)
    h, w = spec.resolution
    n = int(np.clip(2**22 // (h * w), 16, 256))
    batch = int(np.clip(2**20 // (h * w), 2, 32))
    recalibrate(net, calibration_batches(images, n // batch, batch, spec.resolution))
    return net.state_dict()


def _corrected(deployed: _Deployed, start: Start, whole: Whole) -> Start:
    """`start` with the time that was measured; predictions are scaled to it."""
    deployed.correct(start.spec, whole.ms)
    return replace(start, scored=replace(start.scored, latency_ms=whole.ms))


def _progress(step: Step, start: Start, first_gap: float, aim: float, began: float) -> Progress:
    """Progress by milliseconds saved, with the time that the rest should take."""
    gap = max(start.scored.latency_ms - aim, 1e-9)
    share = 1 - gap / max(first_gap, 1e-9)
    within = len(step.candidates) / max(step.total, 1)
    done = min(max(share, 0.0), 1.0)
    spent = time.monotonic() - began
    left = spent / done * (1 - done) if done > 0.1 else None
    text = f"step {start.step + 1}, proposal {len(step.candidates)} of {step.total}, {start.scored.latency_ms:.2f} ms"
    return Progress(STAGE, round(done * 100 + within, 1), 100, text, left)
