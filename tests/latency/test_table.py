"""The table: predictions, calibration, and a CSV that nobody can edit unnoticed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.errors import BadInput, ForeignTable, MissingLayerError
from mbv3.latency import (
    Calibration,
    Fingerprint,
    LatencyTable,
    NetworkTime,
    Timed,
    weights_mb,
)  # fmt: skip
from mbv3.space import SearchSpace
from mbv3.space.additive import layer_keys
from mbv3.spec import ArchSpec, Classify, Conv, LayerKey, MBConv, load_spec, lower

from .fake import FINGERPRINT, layer_cost

SPEC = replace(load_spec("mobilenet_v3_small"), resolution=(64, 64))
KEYS = [x.key for x in lower(SPEC)]


def table_of(keys: list[LayerKey], **more: object) -> LatencyTable:
    rows = {k: Timed(round(layer_cost(k), 6), 9, round(1.1 * layer_cost(k), 6), 0.002) for k in keys}
    return LatencyTable(FINGERPRINT, {"spec": "reference", "ms": 4.25}, rows, **more)  # type: ignore[arg-type]


NETS = tuple(NetworkTime(f"net {i}", 3.0 + i, 2.5 + i, 0.5 * i, 10**6 * i) for i in range(5))
TABLE = replace(
    table_of(KEYS, calibration=Calibration(1.25, 0.5, -0.125), about={"space": "s", "date": "2026-01-01"}),
    networks=NETS,
    report={"n": 5, "rmspe": 1.5, "spearman": None, "baselines": {"plain_sum": {"bias": -3.0}}},
)


# -- prediction


def test_a_prediction_is_the_calibrated_sum() -> None:
    hot = sum(TABLE.layers[k].ms for k in KEYS)
    mb = sum(weights_mb(k) for k in KEYS)
    expected = 1.25 * hot + 0.5 * mb - 0.125
    prediction = TABLE.predict(SPEC)
    assert TABLE.latency_ms(SPEC) == prediction.ms == pytest.approx(expected)
    assert prediction.estimated == 0
    assert [path for path, _, _ in prediction.rows] == [x.path for x in lower(SPEC)]
    assert sum(ms for _, ms, _ in prediction.rows) - 0.125 == pytest.approx(expected)
    path, ms, estimated = prediction.rows[3]
    assert (path, estimated) == ("rows[2]", False)
    assert ms == pytest.approx(1.25 * TABLE.layers[KEYS[3]].ms + 0.5 * weights_mb(KEYS[3]))


def test_weights_in_megabytes() -> None:
    assert weights_mb(LayerKey(Conv(k=1, out=100), 10, 1, 1)) == pytest.approx((1000 + 200) * 4 / 1e6)


def test_every_missing_layer_is_listed_once() -> None:
    wanted = list(dict.fromkeys(KEYS))
    gone = [wanted[i] for i in (0, 4, 7, len(wanted) - 1)]
    table = table_of([k for k in KEYS if k not in gone])
    assert table.missing(SPEC) == gone
    for ask in (table.predict, table.latency_ms):
        with pytest.raises(MissingLayerError, match=r"^4 layer\(s\) not in the latency table: conv_h64w64_i3_") as e:
            ask(SPEC)
        assert e.value.missing == tuple(map(str, gone))
    with pytest.raises(MissingLayerError, match=re.escape(str(gone[0]))):
        table.hot_ms(gone[0])
    assert table.with_layers({k: Timed(1.0, 1, 1.0, 0.0) for k in gone}).missing(SPEC) == []
    assert table.missing(SPEC) == gone  # the table itself is a value


def test_equal_layers_have_one_row_whatever_does_not_reach_the_graph() -> None:
    row = MBConv(k=3, exp=24, out=16, se=0)
    assert LayerKey(row, 8, 9, 9, "SIGMOID") == LayerKey(row, 8, 9, 9)
    squeezed = replace(row, se=8)
    assert LayerKey(squeezed, 8, 9, 9, "SIGMOID") != LayerKey(squeezed, 8, 9, 9)
    assert LayerKey(Classify(dropout=0.5, nl="RE"), 8, 1, 1, "SIGMOID") == LayerKey(Classify(), 8, 1, 1)
    assert LayerKey(Classify(features=8, nl="RE"), 8, 1, 1) != LayerKey(Classify(features=8), 8, 1, 1)
    other: ArchSpec = replace(SPEC, head=replace(SPEC.head, dropout=0.7), bn_eps=1e-5, bn_momentum=0.5, name="o")
    assert TABLE.latency_ms(other) == TABLE.latency_ms(SPEC)
    assert TABLE.missing(replace(SPEC, gate="SIGMOID")) == [
        replace(k, gate="SIGMOID") for k in dict.fromkeys(KEYS) if isinstance(k.row, MBConv) and k.row.se
    ]


def test_estimates_are_marked_and_near_what_they_stand_for(space: SearchSpace) -> None:
    keys = list(layer_keys(space))
    spec = space.spec((1,) * len(space.sizes))
    gone = next(x.key for x in lower(spec) if x.path == "rows[1]")
    full, table = table_of(keys), table_of([k for k in keys if k != gone])
    prediction = table.predict(spec, estimate=True)
    assert prediction.estimated == 1
    assert [path for path, _, estimated in prediction.rows if estimated] == ["rows[1]"]
    assert prediction.ms == pytest.approx(full.latency_ms(spec), rel=0.05)
    assert table.latency_ms(spec, estimate=True) == prediction.ms


def test_an_estimate_follows_the_measured_relative_that_is_nearest(space: SearchSpace) -> None:
    keys = list(layer_keys(space))
    key = next(k for k in keys if isinstance(k.row, MBConv) and k.row.se)
    assert isinstance(key.row, MBConv)
    table = table_of(keys)
    slower = table.with_layers({key: Timed(3 * table.layers[key].ms, 9, 1.0, 0.0)})
    cut = replace(key, row=replace(key.row, exp=key.row.exp - 1))  # what NetAdapt asks for
    assert 1.5 * table.hot_ms(cut, estimate=True) < slower.hot_ms(cut, estimate=True) < slower.hot_ms(key)


def test_a_table_too_small_for_estimates_says_so() -> None:
    table = table_of(KEYS[:3])
    with pytest.raises(BadInput, match=r"at least 20 measured layers \(got 3\)"):
        table.predict(SPEC, estimate=True)
    assert table.hot_ms(KEYS[0], estimate=True) == table.layers[KEYS[0]].ms  # a measured one needs no estimate


# -- CSV

micro = st.integers(1, 10**9).map(lambda n: n / 10**6)  # the file keeps nanoseconds, of layers all digits
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)
reals = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=6))
    rows = {k: Timed(draw(st.floats(1e-9, 9e6)), draw(st.integers(1, 999)), draw(micro), draw(micro)) for k in keys}
    nets = draw(st.lists(st.builds(NetworkTime, words, micro, micro, micro, st.integers(0, 10**12)), max_size=4))
    return LatencyTable(
        fingerprint=replace(FINGERPRINT, cpu=draw(words), threads=draw(st.integers(1, 64))),
        reference={"spec": draw(words), "ms": draw(micro)},
        layers=rows,
        networks=tuple(nets),
        calibration=draw(st.builds(Calibration, *[st.floats(-1e6, 1e6)] * 3)),
        report=draw(st.none() | st.dictionaries(words, reals, min_size=1)),
        about=draw(st.none() | st.dictionaries(words, words | reals, min_size=1)),
    )


@settings(max_examples=100, deadline=None)
@given(tables())
def test_what_is_dumped_loads_as_the_same(table: LatencyTable) -> None:
    text = table.dumps()
    again = LatencyTable.loads(text)
    assert again == table
    assert again.dumps() == text


def test_a_full_table_comes_back_from_its_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.csv"
    TABLE.save(path)
    again = LatencyTable.load(str(path))
    assert again == TABLE and list(again.layers) == list(TABLE.layers)
    assert again.latency_ms(SPEC) == TABLE.latency_ms(SPEC)
    assert [p.name for p in path.parent.iterdir()] == ["t.csv"]


def test_networks_of_the_same_name_keep_their_own_times() -> None:
    twins = (replace(NETS[0], label="x"), replace(NETS[1], label="x", ms=9.0))
    assert LatencyTable.loads(replace(TABLE, networks=twins).dumps()).networks == twins


def test_times_of_layers_are_kept_to_the_last_digit_and_what_is_told_to_the_nanosecond() -> None:
    table = table_of(KEYS[:1]).with_layers({KEYS[0]: Timed(0.1234567891, 3, 0.1234567891, 0.1234567891)})
    table = replace(table, networks=(replace(NETS[0], ms=0.1234567891),))
    again = LatencyTable.loads(table.dumps())
    assert again.layers[KEYS[0]] == Timed(0.1234567891, 3, 0.123457, 0.123457)
    assert again.networks[0].ms == 0.123457


def test_a_time_that_numpy_made_is_written_as_any_other() -> None:
    table = table_of(KEYS[:1]).with_layers({KEYS[0]: Timed(np.float64(0.1) + np.float64(0.2), 3, 0.3, 0.1)})
    assert f"layer,{KEYS[0]},0.30000000000000004,3,0.300000,0.100000,\n" in table.dumps()
    assert LatencyTable.loads(table.dumps()) == table


def test_a_file_with_the_line_ends_of_windows_loads(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TABLE.dumps().replace("\n", "\r\n").encode())
    assert LatencyTable.load(path) == TABLE


TEXT = TABLE.dumps()
ROWS = len(TABLE.layers) + len(NETS)


def swap(old: str, new: str) -> str:
    assert TEXT.count(old) >= 1, old
    return TEXT.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "\n".join(TEXT.splitlines()[:-1]) + "\n",
            f"{ROWS - 1} of {ROWS} rows are there: it was truncated",
        ),
        (
            "\n".join(TEXT.splitlines()[:-9]) + "\n",
            f"{ROWS - 9} of {ROWS} rows are there: it was truncated",
        ),
        (TEXT[:-20], "a value was edited"),
        (TEXT + TEXT.splitlines()[-1] + "\n", f"{ROWS + 1} of {ROWS} rows are there"),
        (swap("layer,conv_h64w64_i3", "layer,conv_h64w64_i4"), "a value was edited"),
        (swap(f",{TABLE.layers[KEYS[0]].ms!r},", ",0.000001,"), "a value was edited"),
        (swap('"a": 1.25', '"a": 1.0'), "a value was edited"),
        (swap('"ms": 4.25', '"ms": 4.0'), "a value was edited"),
        (swap('"cpu": "Fake 9000"', '"cpu": "Real 9000"'), "a value was edited"),
        (swap('"date": "2026-01-01"', '"date": "2026-01-02"'), "a value was edited"),
        (swap("# about: ", "# more: "), "a value was edited"),
        (re.sub(r"# seal: .*\n", "", TEXT), f"{ROWS} of None rows"),
        (re.sub(r"# seal: .*\n", "# seal: [1]\n", TEXT), f"{ROWS} of None rows"),
        (re.sub(r"# seal: .*\n", "# seal: 7\n", TEXT), f"{ROWS} of None rows"),
    ],
)
def test_a_changed_file_does_not_match_its_seal(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=r"^t\.csv: its content does not match the seal in its header \(") as e:
        LatencyTable.loads(text, "t.csv")
    assert why in str(e.value)
    assert "mbv3 latency build" in str(e.value)


def layer_with(**values: float) -> Callable[[], LatencyTable]:
    timed = replace(Timed(1.0, 3, 1.0, 0.1), **values)  # type: ignore[arg-type]
    return lambda: TABLE.with_layers({KEYS[2]: timed})


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (layer_with(ms=math.nan), "nan is not a time in ms"),
        (layer_with(ms=-1.0), ": -1.0 is not a time in ms"),
        (layer_with(ms=0.0), ": 0.0 is not a time in ms"),
        (layer_with(ms=math.inf), "inf is not a time in ms"),
        (layer_with(ms=1e8), ": 100000000.0 is not a time in ms"),
        (layer_with(mean=math.nan), "nan is not a time in ms"),
        (layer_with(std=math.nan), "3 runs with a standard deviation of nan ms"),
        (layer_with(std=-0.1), "3 runs with a standard deviation of -0.100000 ms"),
        (layer_with(n=0), "0 runs with a standard deviation"),
        (lambda: replace(TABLE, networks=(replace(NETS[0], ms=math.nan),)), "net 0: nan is not a time in ms"),
        (
            lambda: replace(TABLE, networks=(replace(NETS[0], ms=-1.0),)),
            "net 0: -1.000000 is not a time in ms",
        ),
        (
            lambda: replace(TABLE, calibration=Calibration(a=math.nan)),
            "calibration has numbers that are not finite",
        ),
        (lambda: replace(TABLE, reference={"ms": -1}), "-1 is not a time in ms"),
        (lambda: replace(TABLE, reference={"ms": math.nan}), "nan is not a time in ms"),
        (lambda: replace(TABLE, reference={"ms": 10**400}), "OverflowError"),
        (lambda: replace(TABLE, reference={}), "KeyError: 'ms'"),
        (lambda: replace(TABLE, networks=(replace(NETS[0], hot_ms=math.nan),)), "nan is not a time in ms"),
        (lambda: replace(TABLE, networks=(replace(NETS[0], mb=-1.0),)), "net 0: -1.0 is no sum over layers"),
        (lambda: replace(TABLE, networks=(replace(NETS[0], madds=-5),)), "net 0: -5 is no sum over layers"),
        (lambda: replace(TABLE, about={"width": -1}), "about.width is -1"),
        (lambda: replace(TABLE, about={"width": math.nan}), "about.width is nan"),
        (lambda: replace(TABLE, about={"resolution": 1.5}), "must be a side or HEIGHTxWIDTH"),
    ],
)
def test_times_that_are_none_are_refused_though_sealed(table: Callable[[], LatencyTable], why: str) -> None:
    text = table().dumps()
    with pytest.raises(BadInput, match=r"^t\.csv: not a valid latency table \(") as e:
        LatencyTable.loads(text, "t.csv")
    assert why in str(e.value)


def sealed(text: str) -> str:
    """`text` with the seal that it needs."""
    lines = [x for x in text.split("\n") if not x.startswith("# seal: ")]
    n = next(i for i, x in enumerate(lines) if not x.startswith("# "))
    head, body = "".join(f"{x}\n" for x in lines[:n]), "\n".join(lines[n:])
    seal = {"rows": body.count("\n") - 1, "sha256": hashlib.sha256((head + body).encode()).hexdigest()}
    return f"{head}# seal: {json.dumps(seal)}\n{body}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT + TEXT.splitlines()[-len(NETS) - 1] + "\n", "this layer has two rows; keep one"),
        (swap("kind,key,ms,n,mean", "kind,key,mean,n,ms"), "its columns must be kind,key,ms,n,mean,std,predicted"),
        (swap("# calibration: ", '# reference: {"ms": 9}\n# calibration: '), "'reference' is there a second time"),
        (re.sub("# about: .*", "# about: [1, 2]", TEXT), "about is no mapping"),
        (re.sub("# report: .*", "# report: 7", TEXT), "report is no mapping"),
        (swap('"cpu": "Fake 9000"', '"cpu": {}'), "fingerprint.cpu is {}"),
        (swap('"threads": 1', '"threads": 1.5'), "fingerprint.threads is 1.5"),
        (re.sub("# calibration: .*", "# calibration: 7", TEXT), "calibration is no mapping"),
    ],
)
def test_a_table_that_says_two_things_or_nothing_is_refused_though_sealed(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=r"^t\.csv: ") as e:
        LatencyTable.loads(sealed(text), "t.csv")
    assert why in str(e.value)
    assert LatencyTable.loads(sealed(TEXT), "t.csv") == TABLE  # the seal of this test is the file's


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a latency table"),
        ("kind,key,ms\n", "not a latency table"),
        (
            '# format: "mbv3-table/2"\n',
            "is a table of another format .'mbv3-table/2', not 'mbv3-table/4'.; measure it again",
        ),
        ("# format: mbv3\n", "line 1: the value of 'format' is not valid JSON"),
        ('# format: "mbv3-table/4"\n# x: ' + "[" * 10**5, "line 2: the value of 'x' is not valid JSON"),
        ('# format: "mbv3-table/4"\n' + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_told(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=f"^t.csv: .*{why}"):
        LatencyTable.loads(text, "t.csv")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no\.csv: no such latency table; build one with: mbv3 latency build"):
        LatencyTable.load(tmp_path / "no.csv")
    with pytest.raises(BadInput, match="cannot be read as a latency table"):
        LatencyTable.load(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as a latency table"):
        LatencyTable.load(tmp_path / "binary.csv")
    with pytest.raises(BadInput, match="cannot be read as a latency table"):
        LatencyTable.load("nul\0.csv")
    with (tmp_path / "large.csv").open("wb") as f:
        f.truncate(30_000_001)
    with pytest.raises(BadInput, match="a latency table has at most 30,000,000 bytes"):
        LatencyTable.load(tmp_path / "large.csv")


# -- fingerprint


def test_a_foreign_table_lists_what_differs() -> None:
    here = replace(FINGERPRINT, threads=4, cpu="Other", governor="powersave", kernel="7.0", cores=64)
    TABLE.require(replace(FINGERPRINT, governor="powersave", kernel="7.0", cores=64), "t.csv")
    with pytest.raises(ForeignTable, match=r"^t\.csv: this latency table was not measured on this set-up\n") as e:
        TABLE.require(here, "t.csv")
    assert e.value.differing == (("cpu", "Fake 9000", "Other"), ("threads", 1, 4))
    assert "  threads: table 1, here 4" in str(e.value) and "--force-table" in str(e.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu", "x"), ("vector", "avx512f"), ("system", "Darwin arm64"), ("runtime", "litert"),
        ("runtime_version", "2"), ("threads", 2), ("precision", "int8"), ("batch", 8),
    ],
)  # fmt: skip
def test_every_compared_field_makes_another_device(field: str, value: object) -> None:
    other = Fingerprint(**{**FINGERPRINT.as_dict(), field: value})
    assert FINGERPRINT.differences(other) == [(field, getattr(FINGERPRINT, field), value)]
    assert other.id != FINGERPRINT.id
    assert re.fullmatch("[0-9a-f]{12}", other.id)
