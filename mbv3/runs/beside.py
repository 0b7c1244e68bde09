"""Do no harm: the networks beside the found one, into run.json and the run directory."""

from __future__ import annotations

from collections.abc import Generator

from mbv3.events import Event, Note, StageStart
from mbv3.record import Baseline, SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, dump_spec
from mbv3.stages import Adapted, Judge, SpaceLatency, baselines_at, compared
from mbv3.tables import Latency

__all__ = ["put_beside"]

STAGE = "baselines"


def put_beside(
    o: Options, run: RunDir[SearchRecord], adapted: Adapted, like: ArchSpec, latency: Latency, space: SearchSpace,
    judge: Judge, cost: SpaceLatency, scored: int,
) -> Generator[Event, None, None]:  # fmt: skip
    """Baselines at the ms of the adapted network, and, where it is not above the best of them, that one's YAML."""
    assert adapted.estimate is not None
    with run.stage(STAGE):
        yield StageStart(STAGE, "MobileNetV3, published and random networks at the same ms")
        beside = baselines_at(adapted.ms, like, latency, space, judge, cost, scored, o.seed, o.limits, o.recipe)
        verdict = compared(like if adapted.classifier is None else adapted.classifier, adapted.estimate, beside)
        files = {b.name: f"baseline-{i}.yaml" for i, b in enumerate(verdict.handed, start=1)}
        rows = []
        for b in beside:
            by = verdict.by if b is verdict.best else None
            rows.append(
                Baseline(
                    name=b.name, ms=round(b.ms, 4), accuracy=round(b.estimate.value, 3),
                    error=round(b.estimate.error, 3),
                    published=None if b.published is None else b.published.top1,
                    weights=None if b.published is None else b.published.weights,
                    below=None if by is None else round(by.value, 3),
                    below_error=None if by is None else round(by.error, 3), spec=files.get(b.name),
                )
            )  # fmt: skip
            if b.name in files:
                run.text(files[b.name], dump_spec(space.dress(b.spec)))
        run.update(baselines=tuple(rows))
        if verdict.text:
            text = f"{verdict.text}; both are in the run directory: {', '.join(files.values())}"
            run.note(text)
            yield Note(STAGE, text, warning=True)
