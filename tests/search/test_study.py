"""The front of the trials."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.search import Trial, pareto

scores = st.integers(0, 6)  # few values, so that there are ties


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(scores, scores, st.booleans()), max_size=15))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int, bool]]) -> None:
    trials = [
        Trial(i, (i,), float(a) if ok else math.nan, float(t), 0.5 if ok else math.nan, "complete" if ok else "failed")
        for i, (a, t, ok) in enumerate(points)
    ]
    good = [t for t in trials if t.state == "complete"]
    wanted = {
        (t.latency_ms, t.accuracy)
        for t in good
        if not any(
            o.latency_ms <= t.latency_ms
            and o.accuracy >= t.accuracy
            and (o.latency_ms, o.accuracy) != (t.latency_ms, t.accuracy)
            for o in good
        )
    }
    front = pareto(trials)
    assert [(t.latency_ms, t.accuracy) for t in front] == sorted(wanted)  # fastest first, each point once
    assert all(t in trials for t in front)
