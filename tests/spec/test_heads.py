"""Heads as values: YAML and layer keys come back, every fault is named with its path, value and cure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from mbv3.errors import BadInput, DocumentError
from mbv3.spec import (
    FCN,
    LRASPP,
    PSP,
    ArchSpec,
    LayerKey,
    SSDLite,
    Tap,
    aux_of,
    count,
    dump_spec,
    load_spec,
    lower,
    lower_aux,
    lower_key,
    parse_key,
    parse_spec,
    with_head,
)

from .strategies import dense_specs

LARGE = load_spec("mobilenet_v3_large")


@given(dense_specs())
@settings(max_examples=150, deadline=None)
def test_yaml_keys_and_counts_agree(spec: ArchSpec) -> None:
    assume(spec.stride <= 8192)
    assert parse_spec(dump_spec(spec)) == spec
    layers = lower(spec)
    key = layers[-1].key
    assert parse_key(str(key)) == key
    assert lower_key(key).params == layers[-1].params and lower_key(key).madds == layers[-1].madds
    assert layers[-1].inputs and {op.name.split(".")[0] for op in layers[-1].ops} == {"head"}
    names = [op.output for layer in layers for op in layer.ops]
    assert len(set(names)) == len(names)
    known = {"input"}
    for layer in layers:
        for op in layer.ops:
            assert set(op.inputs) <= known  # what an op reads was written before
            known.add(op.output)
    aux = lower_aux(spec)
    assert (aux is None) is (aux_of(spec.head) is None)
    assert count(spec).aux_params == (aux.params if aux else 0)


def test_a_key_says_what_reaches_the_graph_and_no_more() -> None:
    head = with_head(LARGE, "deeplabv3", 5).head
    key = lower(replace(LARGE, head=head))[-1].key
    other = replace(head, dropout=0.7, aux=None, bn_eps=0.5, high=Tap(3))  # type: ignore[call-arg]
    assert LayerKey(other, key.cin, key.h, key.w, image=key.image) == key
    assert LayerKey(replace(head, classes=6), key.cin, key.h, key.w, image=key.image) != key
    wide = replace(LARGE, head=head, resolution=(224, 256))
    assert lower(wide)[-1].key != key


LRASPP_KEY = str(lower(load_spec("lraspp_m-v3s-d8"))[-1].key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lraspp;", "lraspp2;"),
        ("filters=128", "filters=0"),
        ("filters=128", "filters=0128"),
        ("filters=128;", ""),
        ("branches=32-64", "branches=32"),
        ("branches=32-64", "branches=32-x"),
        ("pool=49-49-16-20", "pool=49-49"),
        ("gate=SIGMOID", "gate=TANH"),
        ("gate_bias=0", "gate_bias=2"),
        ("512x1024", "512x9999"),
        (";512x1024", ""),
        ("576x64x128;", ""),
        ("576x64x128", "576x64"),
        ("classes=19", "classes=19;classes=19"),
        ("classes=19", "classes=19;high=1"),
        ("classes=19", "classes=19;dropout=1"),
    ],
)
def test_what_is_no_key(old: str, new: str) -> None:
    assert old in LRASPP_KEY
    parse_key(LRASPP_KEY)
    with pytest.raises(BadInput, match="not a layer key"):
        parse_key(LRASPP_KEY.replace(old, new))


# -- faults

TEXT = dump_spec(with_head(replace(LARGE, name="t"), "lraspp", 19))
SSD = dump_spec(with_head(replace(LARGE, name="t"), "ssdlite", 21))
AUX = dump_spec(with_head(replace(LARGE, name="t"), "fcn", 21))


def faults(text: str) -> list[str]:
    with pytest.raises(DocumentError) as e:
        parse_spec(text)
    return [str(f) for f in e.value.faults]


@pytest.mark.parametrize(
    ("text", "old", "new", "fault"),
    [
        (TEXT, "classes: 19", "classes: 0", "head.classes: must be a whole number from 1 to 1000000 (got 0)"),
        (TEXT, "row: 5, p", "row: 15, p", "head.low[0].row: the backbone has the rows 0 to 14 (got 15); tap one of "
         "them, or give the backbone more rows"),
        (TEXT, "row: tail", "row: head", "head.high.row: must be the number of a row, stem or tail (got 'head')"),
        (TEXT, "row: tail", "row: 1.0", "head.high.row: must be the number of a row, stem or tail (got 1.0)"),
        (TEXT, "point: depthwise", "point: middle", "head.low[0].point: must be one of out, expand, depthwise "
         "(got 'middle')"),
        (TEXT, "row: 5, point: depthwise", "row: 0, point: expand", "head.low[0].point: rows[0] has no such point "
         "(got expand); it has out, depthwise"),
        (TEXT, "row: 5, point: depthwise", "row: stem, point: depthwise", "head.low[0].point: stem has no such point "
         "(got depthwise); it has out"),
        (TEXT, "high: {row: tail}", "high: {row: 2}", "head.low[0]: must be at least as fine as high"),
        (TEXT, "pool: [49, 49, 16, 20]", "pool: [49, 49]", "head.pool: must be a window's height and width and its "
         "stride down and across, or empty for the whole map (got [49, 49])"),
        (TEXT, "pool: [49, 49, 16, 20]", "pool: [49, 49, 16, 0]", "head.pool: must be a list of at most 4 whole "
         "numbers from 1 to 8192 (got [49, 49, 16, 0])"),
        (TEXT, "branches: []", "branches: [32, 64]", "head.low: takes one tap a branch (got 1 taps, 2 branches)"),
        (TEXT, "gate_bias: true", "gate_bias: 1", "head.gate_bias: must be true or false (got 1)"),
        (TEXT, "filters: 128", "filters: 128, depth: 3", "head.depth: unknown key; known here: "),
        (TEXT, "resolution: 224", "resolution: [31, 64]", "input.resolution: may not be smaller than the network's "
         "stride, 32 (got 31x64)"),
        (TEXT, "high: {row: tail}, ", "", "head.high: is missing"),
        (SSD, "anchors: [3, 6, 6, 6, 6, 6]", "anchors: [3, 6]", "head.anchors: must give a number for each of maps and "
         "extras (got 2 numbers for 6 maps)"),
        (SSD, "{row: 12, point: expand}, {row: tail}", "{row: tail}, {row: 12}", "head.maps: must go from finer to "
         "coarser maps (got ['tail', 12])"),
        (SSD, ", {row: tail}]", "]", "head.anchors: must give a number"),
        (AUX, "aux: {type: fcn", "aux: {type: psp", "head.aux.type: must be one of fcn (got 'psp')"),
        (AUX, "high: {row: 11}", "high: {row: 99}", "head.aux.high.row: the backbone has the rows 0 to 14 (got 99)"),
    ],
)  # fmt: skip
def test_fault(text: str, old: str, new: str, fault: str) -> None:
    assert old in text
    assert faults(text.replace(old, new))[0].startswith(fault)


def test_all_faults_come_at_once() -> None:
    both = TEXT.replace("classes: 19", "classes: 0").replace("row: 5", "row: 50")
    assert [f.partition(":")[0] for f in faults(both)] == ["head.classes", "head.low[0].row"]
    # what a fault makes of its neighbours is no fault of theirs
    lost = TEXT.replace("branches: []", "branches: [0]").replace("out: 40", "out: x", 1)
    assert [f.partition(":")[0] for f in faults(lost)] == ["rows[3].out", "head.branches"]
    text = TEXT.replace("classes: 19", "classes: 0").replace("filters: 128", "filters: x").replace("row: 5", "row: 5.5")
    assert [f.partition(":")[0] for f in faults(text)] == ["head.low[0].row", "head.filters", "head.classes"]


def test_rows_that_nobody_taps() -> None:
    spec = with_head(LARGE, "lraspp", 19)
    assert isinstance(spec.head, LRASPP)
    with pytest.raises(DocumentError, match="head: what comes after its deepest tap is computed for nothing; tap tail"):
        replace(spec, head=replace(spec.head, high=Tap(14)))


def test_a_tail_that_is_not_there() -> None:
    spec = with_head(LARGE, "lraspp", 19)
    with pytest.raises(DocumentError, match=r"head.high.row: the backbone has no tail \(got 'tail'\); write 14"):
        replace(spec, tail=None)


def test_values_that_python_lets_through() -> None:
    fcn = FCN(high=Tap("tail"), filters=8, classes=2)
    wrong = [
        (replace(fcn, aux=replace(fcn, aux=fcn)), "head.aux.aux: an auxiliary head has none of its own"),
        (replace(fcn, concat=1), "head.concat: must be true or false"),  # type: ignore[arg-type]
        (PSP(high=Tap("tail"), scales=(), classes=2), "head.scales: must have at least one entry"),
        (PSP(high=Tap("tail"), scales=[1], classes=2), "head.scales: must be a list of at most"),  # type: ignore[arg-type]
        (SSDLite(maps=(), anchors=(6,) * 4, classes=2), "head.maps: takes at least one tap"),
        (
            SSDLite(maps=(Tap(12, "expand"), Tap("tail")), classes=1),
            r"head.classes: counts the background .* \(got 1\); give one more",
        ),
    ]
    for head, fault in wrong:
        with pytest.raises(DocumentError, match=fault):
            replace(LARGE, head=head)
