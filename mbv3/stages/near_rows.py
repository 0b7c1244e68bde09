"""The rows of a table that decide a search: those of the best networks near the target are measured."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from mbv3.accuracy import PAPER, imagenet_space
from mbv3.events import Event, Progress, StageStart
from mbv3.search import Limit, solve
from mbv3.space import Genome, SearchSpace, SpaceLimits, layer_keys
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.reach import search_limits
from mbv3.stages.search import SpaceLatency, space_latency
from mbv3.tables import Latency

__all__ = ["near_rows"]

STAGE, TABLE, TURNS_FILE = "rows", "latency-table.csv", "rows.csv"
COLUMNS = ("turn", "networks", "layers")
TURNS = 8
NEAR = 24  # networks within each limit whose rows are measured
OPTIMISM = 0.5  # held-out errors of the cost model by which a layer without a row is hoped to be faster
PASSES = 2  # as a row of a part of a table has


def near_rows(
    space: SearchSpace,
    latency: Latency,
    targets_ms: Sequence[float],
    *,
    view: SearchSpace | None = None,
    ratio: float = 1.25,
    limits: SpaceLimits | None = None,
    seed: int = 0,
    keep: Keep | None = None,
    recipe: str = PAPER,
) -> Generator[Event, None, SpaceLatency]:
    """The latency of every network of `space`, measured where it matters.

    A search among estimated times prefers the layers that are estimated too fast. So the networks that the ImageNet
    model predicts to be best within each target, and within `ratio` times as much, get the rows that they lack, and are
    looked for again, until they lack none. The table grows in `latency` and is kept, with a row a turn in rows.csv:
    after the last turn a resumed run measures no more. Without the device, or where no row is lacking, nothing is done.
    `view`: the space as the ImageNet model is asked about it, where that is another one; `recipe`: the training that it
    is asked about.
    """
    cost = space_latency(space, latency)
    if latency.device is None or not cost.estimated:
        return cost
    limits, keep, score = limits or SpaceLimits(), keep or Memory(), imagenet_space(view or space, recipe=recipe)
    turns = keep.rows(TURNS_FILE)
    if len(turns) >= TURNS or any(row["layers"] == "0" for row in turns):
        return cost
    lacking = sum(k not in latency.table.layers for k in layer_keys(space))
    yield StageStart(STAGE, f"measuring the layers of the best networks, of {lacking} whose times are estimated")
    best: list[Genome] = []
    for turn in range(len(turns), TURNS):
        error = latency.table.cost_model.error
        hoped = space_latency(space, latency, 1 - OPTIMISM * (min(error, 50.0) if math.isfinite(error) else 0.0) / 100)
        # the fastest network too: whether a target can be met at all must not be estimated
        found: list[Genome] = [hoped.additive.extreme(False)[1]]
        for most in [t * r for t in targets_ms for r in (1.0, ratio)]:
            within = [Limit(hoped.many, most), *search_limits(limits)]
            done = solve(
                space.sizes, score, within, seed=seed, population=400, generations=12, starts=2, first=best, keep=NEAR
            )
            found += done.best
        best = list(dict.fromkeys(found))
        specs = [space.deployed(g) for g in best]
        missing = len(latency.missing(specs))
        if missing:
            yield Progress(STAGE, turn + 1, TURNS, f"{missing} layers of {len(best)} networks")
            latency.fill(specs, PASSES)
        if (file := keep.file(TABLE)) is not None:
            latency.table.save(file)
        keep.append_rows(TURNS_FILE, COLUMNS, [{"turn": turn + 1, "networks": len(best), "layers": missing}])
        if not missing:
            break
    return space_latency(space, latency)
