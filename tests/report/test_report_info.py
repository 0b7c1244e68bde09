"""The numbers behind the figures, against formulas and by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3.report import comparison, headline
from mbv3.report.fidelity import Timed, fidelity_info, metrics
from mbv3.report.headline import headline_info
from mbv3.report.html import Html, count_text, fixed, ms_text, tag
from mbv3.report.network import network_info
from mbv3.report.run_files import number, read_run
from mbv3.report.svg import spread
from mbv3.report.trace import trace_info
from mbv3.report.trials import DRAWN, Point, pareto, trials_info
from mbv3.spec import count, load_spec


def point(i: int, ms: float, accuracy: float) -> Point:
    return Point(number=i, genome="", latency_ms=ms, accuracy=accuracy)


def test_pareto_by_hand() -> None:
    some = [(10, 60), (10, 61), (12, 61), (13, 60.5), (15, 64), (15, 64), (20, 63), (21, 65)]
    front = pareto(point(i, ms, acc) for i, (ms, acc) in enumerate(some))
    assert [p.number for p in front] == [1, 4, 7]
    assert pareto([]) == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30))
def test_pareto_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    front = pareto(point(i, ms, acc) for i, (ms, acc) in enumerate(pairs))

    def beaten(p: tuple[int, int]) -> bool:
        return any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in pairs)

    assert {(p.latency_ms, p.accuracy) for p in front} == {p for p in pairs if not beaten(p)}


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.2))
def test_spread_keeps_the_gap_and_the_order(wanted: list[float], gap: float) -> None:
    places = spread(sorted(wanted), gap)
    assert len(places) == len(wanted)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))


def test_spread_moves_only_what_collides() -> None:
    assert spread([0.1, 0.5, 0.52, 0.9], 0.1) == pytest.approx([0.1, 0.46, 0.56, 0.9])


def test_metrics_formula() -> None:
    pairs = [(100.0, 104.0), (50.0, 47.0), (200.0, 200.0), (10.0, 12.0)]  # +4, -6, 0, +20 %
    m = metrics("x", [Timed(role="check", key="", measured_ms=t, predicted_ms=p) for t, p in pairs])
    assert m.rmspe == pytest.approx(math.sqrt((16 + 36 + 0 + 400) / 4))
    assert m.bias == pytest.approx(4.5)
    assert (m.within_5, m.within_10, m.n) == (50.0, 75.0, 4)
    assert m.spearman == pytest.approx(1.0)
    assert metrics("none", []).rmspe is None
    assert metrics("one", [Timed(role="check", key="", measured_ms=1, predicted_ms=1)]).spearman is None


def test_fidelity_reads_the_header_in_percent(run: Path) -> None:
    info = fidelity_info(read_run(run))
    assert info is not None
    assert [m.name for m in info.rows] == ["table", "plain sum of layers", "line through MAdds"]
    assert (info.rows[0].rmspe, info.rows[0].within_5, info.noise_floor) == (2.17, 95.0, 1.52)
    assert info.rows[1].n == 20  # the baselines speak of the same networks
    assert (info.layers, len(info.networks)) == (60, 40)
    assert sum(t.role == "check" for t in info.networks) == 20


def test_fidelity_is_computed_where_the_header_has_none(run: Path, sample: SimpleNamespace) -> None:
    (run / "latency-table.csv").write_text(sample.table(report={}))
    info = fidelity_info(read_run(run))
    assert info is not None
    assert info.how == "the check networks"
    assert info.rows == (metrics("table", [t for t in info.networks if t.role == "check"]),)


def test_trials(run: Path, sample: SimpleNamespace) -> None:
    info = trials_info(read_run(run))
    assert info is not None
    assert (len(info.points), info.failed, info.unscored) == (231, 6, 3)
    assert info.front == pareto(info.points)
    assert info.seed is not None and (info.seed.ms, info.seed.accuracy) == (61.0, 66.1)  # the judge's, as the trials
    assert info.final is not None and info.final.ms == 49.38 and info.final_measured
    assert info.final.accuracy is None  # judged otherwise than the trials: a line, no point
    assert {r.name: r.accuracy for r in info.references}["mnasnet_a1"] == 65.2
    (run / "trials.csv").write_text(sample.trials(9000))
    many = trials_info(read_run(run))
    assert many is not None and len(many.points) > DRAWN == len(many.drawn)


def test_an_unmeasured_result_stands_at_its_prediction(tmp_path: Path, sample: SimpleNamespace) -> None:
    info = trials_info(read_run(sample.write(tmp_path / "run", measured_ms=None)))
    assert info is not None and info.final is not None
    assert (info.final.ms, info.final_measured) == (49.71, False)


def test_network(run: Path) -> None:
    files = read_run(run)
    info, spec = network_info(files), load_spec(run / "mobilenetv3.yaml")
    assert info is not None
    assert (info.params, info.madds) == (count(spec).params, count(spec).madds)
    assert sum(r.params for r in info.rows) == info.params
    assert [r.path for r in info.rows] == ["stem", *(f"rows[{i}]" for i in range(15)), "tail", "head"]
    assert info.rows[5].was == (("exp", 120), ("se", 32))
    assert [r.path for r in info.rows if r.was] == ["rows[4]", "rows[11]"]
    assert [r.path for r in info.rows if r.estimated] == ["rows[4]", "rows[11]"]
    assert info.rows_ms == pytest.approx(sum(0.4 + 0.35 * (i % 7) for i in range(18)))
    head = headline_info(files)
    assert (head.params, head.madds) == (info.params, info.madds)
    assert head.over == pytest.approx(49.38 / 50 - 1)


def test_trace(run: Path, sample: SimpleNamespace) -> None:
    info = trace_info(read_run(run))
    assert info is not None and info.seed is not None
    assert [s.choice.step for s in info.steps] == list(range(1, 12))
    assert {s.compared for s in info.steps} == {14}
    assert len(info.proposals) == 154 and all(s.choice.chosen for s in info.steps)
    times = [p.latency_ms for p in info.path if p.latency_ms is not None]
    assert times == sorted(times, reverse=True) and times[0] == 61.0
    lines = sample.netadapt(steps=2).splitlines()
    (run / "netadapt.csv").write_text("\n".join(line for line in lines if not line.endswith(",1")) + "\n")
    stopped = trace_info(read_run(run))
    assert stopped is not None and stopped.steps == () and stopped.open_steps == (1, 2)


def test_numbers_and_text() -> None:
    assert [number(v) for v in (1, 1.5, True, "1", None, math.nan, math.inf, 10**400)] == [
        1,
        1.5,
        *[None] * 6,
    ]
    assert [count_text(v) for v in (464, 12345, 5483032, 216589760, None)] == [
        *("464", "12.3 k", "5.48 M", "217 M", "\N{EN DASH}"),
    ]
    assert [ms_text(v) for v in (0.1234, 49.38, 1234.5)] == ["0.123", "49.38", "1,234.5"]
    assert fixed(-0.5, 1, sign=True) == "\N{MINUS SIGN}0.5"
    assert tag("p", "<b>", Html("<i></i>"), class_='"') == '<p class="&quot;">&lt;b&gt;<i></i></p>'


def test_limits_bound_and_devices_are_facts_of_the_headline(tmp_path: Path, sample: SimpleNamespace) -> None:
    more = {
        "comparison": [],
        "bound": {"found": 75.25, "most": 75.5},
        "limits": [{"name": "params", "most": 5e6, "found": 4.9e6}],
        "devices": [{"name": "a.csv", "table": "latency-table.csv", "ms": 41.5}],
        "baselines": [
            {"name": "twin", "ms": 40.0, "accuracy": 75.0, "error": 1.2, "below": 0.25, "below_error": 0.5},
            {"name": "known", "ms": 41.0, "accuracy": 74.0, "error": 1.2, "published": 76.5, "weights": "timm:known"},
        ],
    }  # fmt: skip
    files = read_run(sample.write(tmp_path / "run", **more))
    assert files.record_faults == ()
    shown = headline.render(headline_info(files)) + comparison.render(comparison.comparison_info(files))
    for text in ("at most 0.25 points better is possible under this table and model", "At most 5,000,000 params",
                 "On a.csv", "0.25 ± 0.50", "76.50, timm:known", "points below the found one"):  # fmt: skip
        assert text in shown
