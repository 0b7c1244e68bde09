"""The one lowering: a connected chain with agreeing shapes for any network, and keys that come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from mbv3.errors import BadInput
from mbv3.spec import (
    NL,
    ArchSpec,
    Classify,
    DSConv,
    LayerKey,
    MBConv,
    count,
    keys_of,
    load_spec,
    lower,
    lower_key,
    parse_key,
)
from mbv3.spec.lowering import Op

from .strategies import dense_specs, specs


@settings(max_examples=100, deadline=None)
@given(specs())
def test_the_ops_of_any_network_form_one_connected_chain(spec: ArchSpec) -> None:
    shapes = {"input": (spec.in_channels, *spec.resolution)}
    names: set[str] = set()
    used: set[str] = set()
    at = shapes["input"]
    for layer in lower(spec):
        assert layer.in_shape == at
        for op in layer.ops:
            assert op.name not in names
            assert op.output not in shapes
            names.add(op.name)
            ins = [shapes[t] for t in op.inputs]  # KeyError: an input that nobody made
            assert ins[0] == (op.cin, op.hin, op.win)
            assert min(op.cout, op.hout, op.wout) >= 1
            _check_op(op, ins)
            used.update(op.inputs)
            shapes[op.output] = (op.cout, op.hout, op.wout)
        at = layer.out_shape
        assert shapes[layer.ops[-1].output] == at
    assert at == (spec.head.classes, 1, 1)
    assert set(shapes) - used == {layer.ops[-1].output}  # nothing is computed in vain
    norms = [op.bn for layer in lower(spec) for op in layer.ops if op.bn]
    assert len(set(norms)) == len(norms) and not names & set(norms)


@settings(max_examples=60, deadline=None)
@given(specs() | dense_specs())
def test_keys_alone_are_those_of_the_layers(spec: ArchSpec) -> None:
    assert keys_of(spec) == [layer.key for layer in lower(spec)]


def _check_op(op: Op, ins: list[tuple[int, int, int]]) -> None:
    one = (op.cin, 1, 1)
    if op.kind == "conv":
        assert (op.hout, op.wout) == (-(-op.hin // op.s), -(-op.win // op.s))
        assert op.cin % op.groups == 0 and op.cout % op.groups == 0
    elif op.kind == "pool":
        assert (op.cout, op.hout, op.wout) == (op.cin, -(-op.hin // op.s), -(-op.win // op.s))
    elif op.kind == "gpool":
        assert (op.cout, op.hout, op.wout) == one
    else:
        assert (op.cout, op.hout, op.wout) == ins[0]
        assert ins[1:] == {"act": [], "mul": [one], "add": [ins[0]]}[op.kind]
    assert (op.nl != "NONE") == (op.kind == "act")


@settings(max_examples=50, deadline=None)
@given(specs())
def test_a_key_comes_back_from_its_text_and_lowers_to_the_same_layer(spec: ArchSpec) -> None:
    for layer in lower(spec):
        assert parse_key(str(layer.key)) == layer.key
        alone = lower_key(layer.key)
        assert (alone.madds, alone.params, alone.out_shape) == (layer.madds, layer.params, layer.out_shape)
        assert [op.kind for op in alone.ops] == [op.kind for op in layer.ops]
    assert count(spec).madds == sum(lower_key(layer.key).madds for layer in lower(spec))


def ops_of(row: MBConv | DSConv | Classify, gate: str = "HSIGMOID") -> list[str]:
    layer = lower_key(LayerKey(row, 16, 8, 8, gate))  # type: ignore[arg-type]
    return [f"{op.name.removeprefix('layer.')} {op.nl}" if op.nl != "NONE" else op.name[6:] for op in layer.ops]


def test_a_bottleneck_squeezes_the_activated_depthwise_output() -> None:
    row = MBConv(k=5, exp=64, out=16, se=16, nl="HS", skip="identity")  # Howard 2019, section 5.3
    assert ops_of(row, "SIGMOID") == [
        "expand.conv", "expand.act HS", "depthwise.conv", "depthwise.act HS",
        "se.pool", "se.reduce", "se.reduce.act RE", "se.expand", "se.expand.act SIGMOID", "se.mul",
        "project.conv", "skip.add",
    ]  # fmt: skip


def test_no_expansion_where_exp_equals_the_input() -> None:
    assert ops_of(MBConv(k=3, exp=16, out=24)) == ["depthwise.conv", "depthwise.act RE", "project.conv"]


def test_a_pooling_skip_takes_the_rows_stride() -> None:
    layer = lower_key(LayerKey(MBConv(k=3, exp=16, out=16, s=2, skip="pool"), 16, 9, 8))
    pool, add = layer.ops[-2:]
    assert (pool.kind, pool.inputs, pool.k, pool.s, pool.hout, pool.wout) == ("pool", ("input",), 3, 2, 5, 4)
    assert add.inputs == (layer.ops[-3].output, pool.output)


def test_the_head_has_no_activation_without_features() -> None:
    assert ops_of(Classify()) == ["pool", "classifier"]
    assert ops_of(Classify(features=8)) == ["pool", "features", "features.act HS", "classifier"]


def test_batch_norms_stand_where_the_paper_has_them() -> None:
    ops = [op for layer in lower(load_spec("mobilenet_v3_large")) for op in layer.ops if op.kind == "conv"]
    assert {op.name for op in ops if op.bn is None} == {
        op.name for op in ops if ".se." in op.name or op.name.startswith("head.")
    }
    assert {op.bn for op in ops if op.name == "rows.3.expand.conv"} == {"rows.3.expand.bn"}


# -- keys


def test_keys_leave_out_what_does_not_reach_the_graph() -> None:
    a, b = (
        LayerKey(Classify(dropout=0.1, nl="RE"), 16, 7, 7),
        LayerKey(Classify(dropout=0.2), 16, 7, 7, "SIGMOID"),
    )
    assert a == b and str(a) == str(b) == "classify_h7w7_i16_f0_nNONE_c1000"
    row = MBConv(k=3, exp=16, out=16)
    assert LayerKey(row, 16, 7, 7, "SIGMOID") == LayerKey(row, 16, 7, 7)
    row = replace(row, se=8)
    assert LayerKey(row, 16, 7, 7, "SIGMOID") != LayerKey(row, 16, 7, 7)


KEY = "mbconv_h56w57_i24_k5_s1_d1_e72_o24_q24_gSIGMOID_nHS_ridentity"


def test_key_text() -> None:
    row = MBConv(k=5, exp=72, out=24, se=24, nl="HS", skip="identity")
    assert parse_key(KEY) == LayerKey(row, 24, 56, 57, "SIGMOID")


def test_nonlinearities_that_few_networks_have_stand_in_keys_only_there() -> None:
    row = DSConv(k=3, out=24, se=4, nl="HS")
    plain = str(LayerKey(row, 16, 7, 7))
    assert plain == "dsconv_h7w7_i16_k3_s1_d1_o24_q4_gHSIGMOID_nHS_rnone"
    more: dict[str, NL]
    for more, text in (
        ({"se_nl": "SILU"}, "_mSILU"), ({"out_nl": "HS"}, "_zHS"), ({"se_nl": "HS", "out_nl": "RE6"}, "_mHS_zRE6"),
    ):  # fmt: skip
        key = LayerKey(replace(row, **more), 16, 7, 7)
        assert str(key) == plain + text and parse_key(str(key)) == key
    assert LayerKey(replace(row, se=0, se_nl="SILU"), 16, 7, 7) == LayerKey(replace(row, se=0), 16, 7, 7)
    assert ops_of(replace(row, se_nl="SILU", out_nl="HS")) == [
        "depthwise.conv", "depthwise.act HS", "se.pool", "se.reduce", "se.reduce.act SILU", "se.expand",
        "se.expand.act HSIGMOID", "se.mul", "project.conv", "project.act HS",
    ]  # fmt: skip
    head = Classify(features=8, features_bias=False)
    assert str(LayerKey(head, 16, 7, 7)) == "classify_h7w7_i16_f8_b0_nHS_c1000"
    assert parse_key(str(LayerKey(head, 16, 7, 7))).row == replace(head, dropout=0.0)
    assert lower_key(LayerKey(head, 16, 7, 7)).params == 8 * 16 + 9 * 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (KEY, ""), (KEY, "mbconv"), (KEY, "_" * 50), (KEY, "classify_h7w7_i16_f0_nHS_c1000"),
        (KEY, "classify_h7w7_i16_f0_nNONE_c0"), (KEY, "classify_h7w7_i16_f-1_nHS_c10"), ("mbconv", "conv"),
        ("mbconv", "MBConv"), ("h56w57", "h56"), ("h56", "h0"), ("h56", "h8193"), ("h56", "h056"),
        ("i24", "i16"), ("i24", "i 24"), ("k5", "k4"), ("k5", "k\u0665"), ("k5", "k5_k5"), ("s1", "s2"),
        ("s1", "s0"), ("d1", "d0"), ("e72", "e0"), ("e72", "e-72"), ("e72", "e" + "9" * 5000), ("_e72", ""),
        ("q24", "q73"), ("q24", "q0"), ("gSIGMOID", "gNONE"), ("gSIGMOID", "gX"), ("nHS", "nXX"),
        ("ridentity", "rjump"), ("ridentity", "ridentity_"), ("ridentity", "ridentity_z1"),
        ("ridentity", "ridentity_mRE"), ("ridentity", "ridentity_mX"), ("ridentity", "ridentity_zHS"),
        ("ridentity", "ridentity\n"),
    ],
)  # fmt: skip
def test_only_one_spelling_of_a_possible_layer_is_a_key(old: str, new: str) -> None:
    assert KEY.count(old) == 1
    with pytest.raises(BadInput, match=r"^not a layer key: '[^\n]{0,60}$"):
        parse_key(KEY.replace(old, new))
