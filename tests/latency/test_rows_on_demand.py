"""Rows that a table lacks, measured when a network needs them: scaled by known rows timed beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbv3.latency import BuildPlan, Device, LatencyTable, build_table
from mbv3.latency.sessions import Run
from mbv3.space import SearchSpace
from mbv3.spec import LayerKey, lower
from mbv3.tables import Latency

from .fake import Clock, FakeRuntime, layer_cost


class Otherwise(FakeRuntime):
    """Layers take a tenth longer than when the table was built, networks do not."""

    def layer(self, key: LayerKey) -> Run:
        self.opened.append(key)
        return self._run(1.1 * layer_cost(key))


def test_rows_on_demand_are_of_a_piece_with_the_table(
    clock: Clock, plan: BuildPlan, space: SearchSpace, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    list(build_table(FakeRuntime(clock), plan, path))
    spec = plan.calibration[0][1]
    keys = list(dict.fromkeys(x.key for x in lower(spec)))
    whole = LatencyTable.load(path)
    lacking = LatencyTable(
        whole.fingerprint,
        whole.reference,
        {k: t for k, t in whole.layers.items() if k not in keys[2:5]},
        whole.networks,
        whole.calibration,
    )
    runtime = Otherwise(clock)
    latency = Latency(lacking, Device(runtime, plan.reference, whole.reference_ms))
    runtime.opened.clear()
    [ms] = latency([spec])
    assert set(keys[2:5]) < set(runtime.opened) and len(runtime.opened) > 6
    for key in keys[2:5]:
        assert latency.table.hot_ms(key) == pytest.approx(layer_cost(key), rel=1e-6)
    assert ms == pytest.approx(whole.latency_ms(spec), rel=1e-6)
    runtime.opened.clear()
    assert latency([spec]) == [ms] and not runtime.opened  # measured once
