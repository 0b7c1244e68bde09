"""YAML in and out: the round trip, and every hostile document answered with one DocumentError."""
# ruff: noqa: E501  (tables of cases, one a line with the whole message)

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from mbv3.errors import BadInput, DocumentError
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, dump_spec, parse_spec, parse_yaml

from .strategies import specs

GOOD = """\
format: mbv3-spec/1
name: small
input: {resolution: 32, channels: 3}
stem: {op: conv, k: 3, out: 16, nl: HS, s: 2}
rows:
  - {op: mbconv, k: 3, exp: 48, out: 24, nl: RE}
tail: {op: conv, k: 1, out: 64, nl: HS}
head: {type: classify, features: 0, nl: HS, dropout: 0.2, classes: 10}
"""
SPEC = ArchSpec(
    name="small",
    resolution=(32, 32),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(MBConv(k=3, exp=48, out=24),),
    tail=Conv(k=1, out=64, nl="HS"),
    head=Classify(classes=10),
)


def edit(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def faults(text: str) -> list[str]:
    with pytest.raises(DocumentError, match=r"^doc: \d+ faults?\n") as e:
        parse_spec(text, "doc")
    return [str(f) for f in e.value.faults]


# -- round trip


@settings(max_examples=150, deadline=None)
@given(specs())
def test_a_dump_parses_to_the_same_network(spec: ArchSpec) -> None:
    text = dump_spec(spec)
    again = parse_spec(text)
    assert again == spec
    assert dump_spec(again) == text  # also tells 1 from True and 0.0 from -0.0, which == does not
    assert all(c.isprintable() for c in text.replace("\n", ""))


def test_the_largest_network_still_fits_a_document() -> None:
    rows = tuple(MBConv(k=31, exp=16384, out=16384, se=16384, s=4, dilation=64) for _ in range(256))
    note = tuple((f"{i:\U0001f600>100}", "\U000e0001" * 1000) for i in range(64))
    spec = replace(SPEC, rows=rows, provenance=note)
    assert parse_spec(dump_spec(spec)) == spec


def test_a_network_without_rows_is_not_written() -> None:
    with pytest.raises(BadInput, match="'small' has no rows and cannot be written"):
        dump_spec(replace(SPEC, rows=()))


@pytest.mark.parametrize(
    "text",
    [GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r"), "---\n" + GOOD + "...\n"],
    ids=["plain", "BOM", "CRLF", "CR", "markers"],
)
def test_what_is_left_out_takes_its_default(text: str) -> None:
    assert parse_spec(text) == SPEC


@pytest.mark.parametrize(
    ("row", "skip"),
    [
        ("{op: mbconv, k: 3, exp: 48, out: 16, nl: RE}", "identity"),
        ("{op: mbconv, k: 3, exp: 48, out: 16, nl: RE, s: 2}", "none"),
        ("{op: mbconv, k: 3, exp: 48, out: 24, nl: RE}", "none"),
        ("{op: dsconv, k: 3, out: 16, nl: RE}", "identity"),
        ("{op: conv, k: 3, out: 16, nl: RE}", "none"),
    ],
)
def test_skip_follows_mobilenetv3_unless_written(row: str, skip: str) -> None:
    text = edit("{op: mbconv, k: 3, exp: 48, out: 24, nl: RE}", row)
    assert parse_spec(text).rows[0].skip == skip


def test_resolution_is_a_side_or_height_and_width() -> None:
    assert parse_spec(edit("resolution: 32", "resolution: [512, 1024]")).resolution == (512, 1024)


# -- scalars follow YAML 1.2, so that nothing is read as what it does not look like


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16), ("+16", 16), ("-0", 0), ("1.", 1.0), (".5", 0.5), ("1e-5", 1e-5), ("1.0E+3", 1000.0),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("-.inf", float("-inf")),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("010", "010"), ("0x10", "0x10"), ("1_000", "1_000"),
        ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("=", "="), ("<<", "<<"), ("'16'", "16"), ("\u0663", "\u0663"),
        (".", "."), ("e5", "e5"), ("0b1", "0b1"), ("nan", "nan"), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_scalar(text: str, value: Any) -> None:
    read = parse_yaml(f"a: {text}", "doc")["a"]
    assert (read, type(read)) == (value, type(value))


def test_keys_are_text() -> None:
    assert parse_yaml("{1: a, yes: b, ~: c, 2020-01-01: d}", "doc") == {
        "1": "a",
        "yes": "b",
        "~": "c",
        "2020-01-01": "d",
    }


# -- one fault


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("k: 3, exp", "k: 3.0, exp", "rows[0].k: must be a whole number from 1 to 31 (got 3.0); write 3"),
        ("k: 3, exp", "k: 99.0, exp", "rows[0].k: must be a whole number from 1 to 31 (got 99.0)"),
        ("k: 3, exp", "k: 4, exp", "rows[0].k: must be odd (got 4)"),
        ("exp: 48", "exp: true", "rows[0].exp: must be a whole number from 1 to 16384 (got True)"),
        ("exp: 48", "exp: '48'", "rows[0].exp: must be a whole number from 1 to 16384 (got '48')"),
        ("exp: 48", "exp: ", "rows[0].exp: must be a whole number from 1 to 16384 (got None)"),
        ("exp: 48", "exp: 1:30", "rows[0].exp: must be a whole number from 1 to 16384 (got '1:30')"),
        ("exp: 48", "exp: 2020-13-45", "rows[0].exp: must be a whole number from 1 to 16384 (got '2020-13-45')"),
        ("exp: 48", "exp: 16385", "rows[0].exp: must be a whole number from 1 to 16384 (got 16385)"),
        ("exp: 48", "exp: -8", "rows[0].exp: must be a whole number from 1 to 16384 (got -8)"),
        ("exp: 48, ", "", "rows[0].exp: is missing"),
        ("nl: RE}", "nl: NO}", "rows[0].nl: must be one of RE, RE6, HS, SILU, NONE (got 'NO')"),
        ("nl: RE}", "nl: [RE]}", "rows[0].nl: must be one of RE, RE6, HS, SILU, NONE (got ['RE'])"),
        ("nl: RE}", "nl: RE, se: 49}", "rows[0].se: squeeze channels may not exceed exp (got se 49, exp 48)"),
        ("nl: RE}", "nl: RE, k7: 1}", "rows[0].k7: unknown key; known here: dilation, exp, k, nl, op, out, s, se, se_nl, skip"),
        ("nl: RE}", "nl: RE, 7: 1}", "rows[0].7: unknown key; known here: dilation, exp, k, nl, op, out, s, se, se_nl, skip"),
        ("nl: RE}", "nl: RE, <<: {k: 5}}", "rows[0].<<: unknown key; known here: dilation, exp, k, nl, op, out, s, se, se_nl, skip"),
        (
            "nl: RE}", "nl: RE, skip: identity}",
            "rows[0].skip: a skip adds input to output, so their channels must agree (got 16 in, 24 out); "
            "write out: 16, or skip: none",
        ),
        (
            "out: 24, nl: RE}", "out: 16, nl: RE, s: 2, skip: identity}",
            "rows[0].skip: an identity skip needs stride 1 (got s: 2); write skip: pool or none",
        ),
        ("{op: mbconv, k: 3, exp: 48, out: 24, nl: RE}", "x", "rows[0]: must be a mapping of names to values (got 'x')"),
        ("{op: mbconv, k: 3, exp: 48, out: 24, nl: RE}", "", "rows[0]: must be a mapping of names to values (got None)"),
        ("\n  - {op: mbconv, k: 3, exp: 48, out: 24, nl: RE}", " []", "rows: must be a list of 1 to 256 entries (got [])"),
        ("rows:\n  - {op: mbconv, k: 3, exp: 48, out: 24, nl: RE}\n", "", "rows: is missing"),
        ("op: mbconv", "op: xx", "rows[0].op: must be one of mbconv, dsconv, conv, uib, fused (got 'xx')"),
        ("stem: {op: conv", "stem: {op: dsconv", "stem.op: must be one of conv (got 'dsconv')"),
        ("stem: {op: conv, k: 3, out: 16, nl: HS, s: 2}\n", "", "stem: is missing"),
        ("{op: conv, k: 1, out: 64, nl: HS}", "", "tail: must be a mapping of names to values (got None)"),
        ("input: {resolution: 32, channels: 3}", "input: 32", "input: must be a mapping of names to values (got 32)"),
        ("resolution: 32, ", "", "input.resolution: is missing"),
        ("classes: 10", "classes: 1e1", "head.classes: must be a whole number from 1 to 1000000 (got 10.0); write 10"),
        ("0.2", ".nan", "head.dropout: must be a number from 0 to 0.999 (got nan)"),
        ("0.2", "1", "head.dropout: must be a number from 0 to 0.999 (got 1)"),
        ("type: classify", "type: unet", "head.type: must be one of classify, lraspp, raspp, fcn, psp, deeplabv3, "
         "deeplabv3plus, ssdlite (got 'unet')"),
        ("spec/1", "spec/2", "format: must be mbv3-spec/1 (got 'mbv3-spec/2')"),
        ("name: small", "name: 5", "name: must be a short line of text (got 5)"),
        ("name: small", 'name: ""', "name: must be a short line of text (got '')"),
        ("name: small", 'name: "\\e[31mred"', r"name: must be a short line of text (got '\x1b[31mred')"),
        ("name: small", 'name: "a\\u202eb"', r"name: must be a short line of text (got 'a\u202eb')"),
        ("name: small", 'name: "\\0"', r"name: must be a short line of text (got '\x00')"),
    ],
)  # fmt: skip
def test_fault(old: str, new: str, fault: str) -> None:
    assert faults(edit(old, new)) == [fault]


@pytest.mark.parametrize(
    "value",
    ["0", "8193", "true", "'224'", "224x224", "", "[]", "[32]", "[1, 2, 3]", "[[1], 2]", "{h: 2}", "3:44"],
)
def test_bad_resolution(value: str) -> None:
    (fault,) = faults(edit("resolution: 32", f"resolution: {value}"))
    assert fault.startswith("input.resolution: must be a side or [height, width] in pixels, each from 1 to 8192 (got ")


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("bn: [1]", "bn: must be a mapping of names to values (got [1])"),
        ("bn:", "bn: must be a mapping of names to values (got None)"),
        ("bn: {eps: .inf}", "bn.eps: must be a number from 1e-12 to 1 (got inf)"),
        ("bn: {eps: 1.0e-20}", "bn.eps: must be a number from 1e-12 to 1 (got 1e-20)"),
        ("gate: NO", "gate: must be one of HSIGMOID, SIGMOID (got 'NO')"),
        ("foo: 1", "foo: unknown key; known here: format, gate, head, input, name, padding, rows, stem, tail"),
        ('"a\\e[2J": 1', r"'a\x1b[2J': unknown key; known here: format, gate, head, input, name, padding, rows, stem, tail"),
        ("provenance: 5", "provenance: must be a mapping of names to values (got 5)"),
        ("provenance: {a: .nan}", "provenance.a: must be a finite number (got nan); leave it out, or write null"),
        ("provenance: {a: 1e999}", "provenance.a: must be a finite number (got inf); leave it out, or write null"),
        ("provenance: {a: [1]}", "provenance.a: must be text, a number, true, false or null (got [1])"),
        ('provenance: {"": 1}', "provenance: must be one line of 1 to 100 printable characters (got '')"),
        ('provenance: {"a\\n": 1}', r"provenance: must be one line of 1 to 100 printable characters (got 'a\n')"),
    ],
)  # fmt: skip
def test_fault_in_an_optional_part(extra: str, fault: str) -> None:
    assert faults(GOOD + extra + "\n") == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "document: the document is empty"),
        (" \n# only a comment\n", "document: the document is empty"),
        ("---\n", "document: the document is empty"),
        ("[1, 2]", "document: must be a mapping of names to values (got [1, 2])"),
        ("hello", "document: must be a mapping of names to values (got 'hello')"),
        (GOOD[:-2], "line 9, column 1: not valid YAML: did not find expected ',' or '}'"),
        (GOOD + "---\n" + GOOD, "line 9, column 1: a file holds one document"),
        (GOOD + "name: x\n", "line 9, column 1: key 'name' stands twice"),
        (edit("exp: 48", "exp: 48, exp: 48"), "line 6, column 33: key 'exp' stands twice"),
        (GOOD + "provenance: {1: a, '1': b}\n", "line 9, column 20: key '1' stands twice"),
        ("? [a]\n: 1\n", "line 1, column 3: a key must be plain text"),
        (edit("small", "&n small"), "line 2, column 7: YAML anchors and aliases are not used here; write the value out"),
        ("a: *b\n", "line 1, column 4: YAML anchors and aliases are not used here; write the value out"),
        (
            "a: !!python/object/apply:os.system ['true']",
            "line 1, column 4: YAML tags are not used here (got 'tag:yaml.org,2002:python/object/apply:os.system'); "
            "leave the tag out",
        ),
        (
            edit("exp: 48", "exp: !!bool x"),
            "line 6, column 29: YAML tags are not used here (got 'tag:yaml.org,2002:bool'); leave the tag out",
        ),
        ("\0", r"line 1, column 1: control characters are not allowed (got '\x00')"),
        (edit("small", "sm\x1ball"), r"line 2, column 9: control characters are not allowed (got '\x1b')"),
        (edit("small", "\ud800"), r"line 2, column 7: control characters are not allowed (got '\ud800')"),
        ("".join(map(chr, range(1, 256))), r"line 1, column 1: control characters are not allowed (got '\x01')"),
        (edit("  - ", "\t- "), "line 6, column 1: not valid YAML: found character that cannot start any token"),
        (edit("small", '"\\ud800"'), "line 2, column 10: not valid YAML: found invalid Unicode character escape code"),
        ("[" * 17 + "]" * 17, "line 1, column 17: nested more than 16 deep"),
        ("%YAML 9.9\n---\na: 1\n", "line 1, column 1: not valid YAML: found incompatible YAML document"),
        (edit("48", "1" + "0" * 400), f"line 6, column 29: a number has at most 100 digits (got '1{'0' * 55}...)"),
        (GOOD + f"bn: {{eps: {'9' * 5000}}}\n", f"line 9, column 11: a number has at most 100 digits (got '{'9' * 56}...)"),
    ],
)  # fmt: skip
def test_document_fault(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("#" + "x" * 50_000_000, "document: at most 1,000,000 bytes (got 50,000,001)"),
        ("#" + "é" * 500_000, "document: at most 1,000,000 bytes (got 1,000,001)"),
        ("[" + "1," * 400_000 + "]", "line 1, column 399996: too many values (got over 200,000)"),
        ("[" * 900_000, "line 1, column 17: nested more than 16 deep"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "line 17, column 17: nested more than 16 deep"),
        (
            "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'lol'}]\n" for i in range(12)),
            "line 1, column 5: YAML anchors and aliases are not used here; write the value out",
        ),
        (edit("48", "0x1" + "0" * 900_000), r"rows\[0\].exp: must be a whole number .* \(got '0x10+\.\.\.\)"),
        (edit("48", "1" + ":59" * 200_000), r"rows\[0\].exp: must be a whole number .* \(got '1:59.*\.\.\.\)"),
        (edit("48", "1" * 900_000 + "x"), r"rows\[0\].exp: must be a whole number .* \(got '1+\.\.\.\)"),
        ("!" + "a" * 900_000 + " x", "line 1, column 1: YAML tags are not used here .*; leave the tag out"),
        (f'? "{"a" * 900_000}"\n: 1', r"'a+\.\.\.: unknown key; .*"),
        ("".join(f"k{i}: 1\n" for i in range(90_000)), "k0: unknown key; .*"),
        (GOOD + f"provenance: {{{','.join(f'k{i}: 1' for i in range(50_000))}}}\n", "provenance: at most 64 entries .*"),
    ],
    ids=["50MB", "bytes", "values", "depth", "indent", "laughs", "hex", "base60", "digits", "tag", "key", "keys", "notes"],
)  # fmt: skip
def test_bulk_is_refused_at_once_and_in_few_words(text: str, fault: str) -> None:
    start = time.process_time()
    with pytest.raises(DocumentError, match=r"^doc: [\d]+ fault") as e:
        parse_spec(text, "doc")
    assert time.process_time() - start < 20  # minutes, were it taken at its word
    assert len(str(e.value)) < 3000
    assert any(fault == str(f) or re.fullmatch(fault, str(f)) for f in e.value.faults)


# -- many faults


def test_all_faults_of_a_document_are_reported_together() -> None:
    text = """\
format: mbv3-spec/1
name: 7
input: {resolution: 0, channels: x}
gate: OPEN
bn: {eps: no}
stem: {op: conv, k: 3, out: 16, nl: XX, s: 2}
rows:
  - {op: mbconv, k: 4, exp: 3.5, out: 0, nl: RE, se: 8}
  - {op: mbconv, k: 3, exp: 64, out: 24, nl: RE, se: 65, skip: identity}
  - 5
tail: {op: conv, k: 1, out: 64, nl: HS, foo: 1}
head: {type: classify}
provenance: {a: .nan}
"""
    assert [f.partition(":")[0] for f in faults(text)] == [
        "name", "input.resolution", "input.channels", "gate", "bn.eps", "stem.nl", "rows[0].exp", "rows[0].out",
        "rows[2]", "tail.foo", "head.classes", "rows[0].k", "rows[1].se", "provenance.a",
    ]  # fmt: skip


def test_missing_parts_are_one_fault_each() -> None:
    assert faults("format: mbv3-spec/1\n") == [f"{k}: is missing" for k in ("name", "input", "stem", "rows", "head")]


def test_a_long_list_of_faults_is_cut() -> None:
    with pytest.raises(DocumentError, match=r"(?s)^doc: 35 faults\n.*\n  and 15 more$") as e:
        parse_spec("format: mbv3-spec/1\n" + "".join(f"u{i}: 1\n" for i in range(30)), "doc")
    assert len(e.value.faults) == 35


def test_the_source_cannot_steer_the_terminal() -> None:
    with pytest.raises(DocumentError, match=r"^'x\\x1b\[2J': 1 fault"):
        parse_spec("", "x\x1b[2J")


# -- the value itself


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": ""}, r"name: must be one line of 1 to 1000 printable characters \(got ''\)"),
        ({"name": "a\x1b[2J"}, r"name: must be one line .* \(got 'a\\x1b\[2J'\)"),
        ({"resolution": (224,)}, r"input.resolution: must be \(height, width\) \(got \(224,\)\)"),
        ({"resolution": (224, 224.0)}, r"input.resolution: must be a whole number from 1 to 8192 \(got 224.0\)"),
        ({"resolution": (224, 10**5000)}, r"input.resolution: .* \(got int too long to print\)"),
        ({"bn_eps": float("nan")}, r"bn.eps: must be a number from 1e-12 to 1 \(got nan\)"),
        ({"bn_eps": 1e-13}, r"bn.eps: must be a number from 1e-12 to 1 \(got 1e-13\)"),
        ({"bn_momentum": True}, r"bn.momentum: must be a number from 0 to 1 \(got True\)"),
        ({"head": Classify(dropout=0.9995)}, r"head.dropout: must be a number from 0 to 0.999 \(got 0.9995\)"),
        ({"head": Classify(features=-1)}, r"head.features: must be a whole number from 0 to 16384 \(got -1\)"),
        ({"rows": (MBConv(k=3, exp=16, out=16),) * 257}, r"rows: at most 256 rows \(got 257\)"),
        ({"rows": (MBConv(k=3, exp=True, out=16),)}, r"rows\[0\].exp: must be a whole number .* \(got True\)"),
        ({"provenance": (("a", 1), ("a", 2))}, r"provenance: the same key stands twice \(got \['a', 'a'\]\)"),
        ({"provenance": (("a", float("inf")),)}, r"provenance.a: must be a finite number \(got inf\); leave it out"),
        ({"provenance": (("a", "\ud83d"),)}, r"provenance.a: must be Unicode text of at most 1000 characters"),
        ({"provenance": (("a", 10**99),)}, r"provenance.a: a whole number has at most 99 digits"),
        ({"provenance": (("a", b"x"),)}, r"provenance.a: must be text, a number, true, false or null \(got b'x'\)"),
    ],
)  # fmt: skip
def test_a_network_that_yaml_could_not_carry_is_never_made(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(DocumentError, match=rf"^network .*: \d faults?\n  {fault}"):
        replace(SPEC, **change)
