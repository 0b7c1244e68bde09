"""A space in YAML: one test a rule, and all faults of a document together."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from mbv3.errors import BadInput, DocumentError
from mbv3.space import load_space, parse_space
from mbv3.spec import MBConv

GOOD = """\
format: mbv3-space/1
name: mine
input: {resolution: 32}
stem: {k: 3, out: 16, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 16, e: 3, k: [3, 5]}
  - {name: b, s: 2, out: 24, e: [3, 4], l: 2}
tail: {k: 1, out: 64, nl: HS}
head: {features: 0, classes: 10}
"""


def edit(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def faults(text: str) -> list[str]:
    with pytest.raises(DocumentError, match=r"^doc: \d+ faults?\n") as e:
        parse_space(text, "doc")
    return [str(f) for f in e.value.faults]


def test_the_good_one_parses() -> None:
    space = parse_space(GOOD)
    assert space.names == ("a_k", "b_e") and space.sizes == (2, 2)
    assert [b.s for b in space.blocks] == [1, 2]
    assert (space.gate, space.se_of, space.se_ratio) == ("HSIGMOID", "expansion", 0.25)
    rows = space.spec((1, 1)).rows
    assert rows == (
        MBConv(k=5, exp=48, out=16, skip="identity"),
        MBConv(k=3, exp=64, out=24, s=2),
        MBConv(k=3, exp=96, out=24, skip="identity"),
    )


RULES = [
    ("format: mbv3-space/1", "format: mbv3-space/2", "format: must be mbv3-space/1"),
    ("name: mine\n", "", "name: is missing"),
    ("name: mine", "name: 3", "name: must be a short line of text"),
    ("name: mine", "name: mine\nwhat: 1", "what: unknown key"),
    ("{resolution: 32}", "{resolution: 0}", "input.resolution: must be a side or "),
    ("{resolution: 32}", "{resolution: 32, channels: 3}", "input.channels: unknown key"),
    ("{resolution: 32}", "32", "input: must be a mapping"),
    ("name: mine", "name: mine\ngate: RE", "gate: must be one of HSIGMOID, SIGMOID"),
    ("name: mine", "name: mine\nse_of: output", "se_of: must be one of input, expansion"),
    ("name: mine", "name: mine\nse_ratio: 0", "se_ratio: must be a number from 0.01 to 1"),
    ("name: mine", "name: mine\nbn: {eps: 0}", "bn.eps: must be a number"),
    ("name: mine", "name: mine\nbn: {decay: 0}", "bn.decay: unknown key"),
    ("{k: 3, out: 16, nl: HS, s: 2}", "{k: 2, out: 16, nl: HS, s: 2}", "stem.k: must be odd"),
    ("{k: 3, out: 16, nl: HS, s: 2}", "{k: 3, nl: HS}", "stem.out: is missing"),
    ("{k: 3, out: 16, nl: HS, s: 2}", "{k: 3, out: 16, nl: hs}", "stem.nl: must be one of"),
    ("{k: 3, out: 16, nl: HS, s: 2}", "[3, 16]", "stem: must be a mapping"),
    ("stem: {k: 3, out: 16, nl: HS, s: 2}\n", "", "stem: is missing"),
    ("{k: 1, out: 64, nl: HS}", "{k: 1, out: 64, nl: HS, e: 1}", "tail.e: unknown key"),
    ("{features: 0, classes: 10}", "{features: 0}", "head.classes: is missing"),
    ("{features: 0, classes: 10}", "{classes: 0}", "head.classes: must be a whole number from 1"),
    ("{features: 0, classes: 10}", "10", "head: must be a mapping"),
    ("name: a, s: 1", "name: b, s: 1", "blocks: two blocks have the same name"),
    ("name: a, s: 1", "s: 1", "blocks[0].name: is missing"),
    ("name: a, s: 1", "name: a, s: 5", "blocks[0].s: must be a whole number from 1 to 4"),
    ("name: a, s: 1", "name: a, z: 1", "blocks[0].z: unknown key"),
    ("  - {name: a, s: 1, out: 16, e: 3, k: [3, 5]}", "  - 3", "blocks[0]: must be a mapping"),
    ("out: 16, e: 3", "e: 3", "blocks[0].out: is missing"),
    ("out: 16, e: 3", "out: null, e: 3", "blocks[0].out: must be a whole number from 1"),
    ("out: 16, e: 3", "out: 16, e: null", "blocks[0].e: must be a number from 0.25 to 16"),
    ("out: 16, e: 3", "out: 16.0, e: 3", "blocks[0].out: must be a whole number from 1"),
    ("out: 16, e: 3", "out: 16, e: 0", "blocks[0].e: must be a number from 0.25 to 16"),
    ("out: 16, e: 3", "out: 16, e: .nan", "blocks[0].e: must be a number from 0.25 to 16"),
    (
        "out: 16, e: 3",
        "out: 16, op: mbconv3",
        "blocks[0].op: must be one of mbconv, dsconv, conv, uib, fused, identity",
    ),
    ("out: 16, e: 3", "out: 16, op: {name: x, op: conv}", "blocks[0].op: must be one of mbconv"),
    ("out: 16, e: 3", "out: 16, nl: [RE, SWISH]", "blocks[0].nl[1]: must be one of RE, RE6, HS, SILU, NONE"),
    ("out: 16, e: 3", "out: 16, skip: yes", "blocks[0].skip: must be one of identity, pool, none"),
    ("out: 16, e: 3", "out: 16, se: [0, 0.25]", "blocks[0].se[1]: must be 0 or 1"),
    ("out: 16, e: 3", "out: 16, se: true", "blocks[0].se: must be 0 or 1"),
    ("out: 16, e: 3", "out: 16, width: [1, 9]", "blocks[0].width[1]: must be a number from 0.05 to 8"),
    ("k: [3, 5]", "k: [3, 4]", "blocks[0].k[1]: must be an odd whole number from 1 to 31"),
    ("k: [3, 5]", "k: [3, 3]", "blocks[0].k: offers the same choice twice"),
    ("k: [3, 5]", "k: []", "blocks[0].k: must offer 1 to 64 choices"),
    ("k: [3, 5]", "k: [[3], 5]", "blocks[0].k[0]: must be an odd whole number"),
    ("k: [3, 5]", "op: [{op: conv}, mbconv]", "blocks[0].op[0].name: is missing"),
    ("k: [3, 5]", "op: [{name: x, kernel: 3}, mbconv]", "blocks[0].op[0].kernel: unknown key"),
    ("k: [3, 5]", "op: [{name: x, k: 4}, mbconv]", "blocks[0].op[0].k: must be an odd whole number"),
    ("k: [3, 5]", "k: [3, 5], op: [{name: x, k: 7}, mbconv]", "blocks[0].k: is set by op and k"),
    ("l: 2", "l: 33", "blocks[1].l: must be a whole number from 0 to 32"),
    ("l: 2", "l: 0", "blocks[1].l: only a block of stride 1 that is as wide as the one before it can be left out"),
    ("name: mine", "name: mine\nscales: {widths: [0]}", "scales.widths: must be a list of numbers from 0.05 to 8"),
    ("name: mine", "name: mine\nscales: {sides: [32.5]}", "scales.sides: must be a list of whole numbers from 16"),
    ("name: mine", "name: mine\nscales: {side: [32]}", "scales.side: unknown key"),
]


@pytest.mark.parametrize(("old", "new", "fault"), RULES)
def test_one_rule(old: str, new: str, fault: str) -> None:
    assert any(f.startswith(fault) for f in faults(edit(old, new)))


def test_at_most_64_choices_a_gene() -> None:
    def offering(n: int) -> str:
        return edit("out: 16, e: 3, k: [3, 5]", f"out: {list(range(1, n + 1))}")

    assert parse_space(offering(64)).sizes == (64, 2)
    assert faults(offering(65))[0].startswith("blocks[0].out: must offer 1 to 64 choices")


def test_combinations_of_one_block_are_bounded() -> None:
    many = f"width: {[i / 64 for i in range(4, 64)]}, k: [1, 3, 5, 7, 9, 11, 13, 15], l: [1, 2, 3, 4, 5, 6]"
    assert parse_space(edit("k: [3, 5]", many)).sizes[:3] == (8, 6, 60)
    many += ", se: [0, 1], nl: [RE, HS, RE6, NONE]"
    (fault,) = faults(edit("k: [3, 5]", many))
    assert fault.startswith("blocks[0]: a block offers at most 20,000 combinations of its choices (got 23040)")


def test_no_choice_at_all_is_no_space() -> None:
    text = edit("k: [3, 5]", "k: [3]").replace("e: [3, 4]", "e: 3")
    assert faults(text) == ["blocks: no block offers a choice; give a field a list, such as k: [3, 5]"]


def test_blocks_must_be_there() -> None:
    head, rest = GOOD.split("blocks:\n")
    tail = rest.partition("tail:")
    assert faults(head + "tail:" + tail[2]) == ["blocks: is missing"]
    assert faults(head + "blocks: []\ntail:" + tail[2])[0].startswith("blocks: must be a list of 1 to 32")
    assert faults("[1, 2]")[0].startswith("document: must be a mapping")


def test_the_largest_network_must_be_one() -> None:
    (fault,) = faults(edit("out: 24, e: [3, 4]", "out: 4096, e: [3, 6]"))  # the second layer expands 4096
    assert fault == "blocks[1]: its largest layer has more than 16384 channels"
    blocks = "".join(f"  - {{name: x{i}, s: 1, out: 16, k: [3, 5], l: 32}}\n" for i in range(9))
    assert faults(edit("  - {name: a,", blocks + "  - {name: a,"))[0].startswith(
        "blocks: a network has at most 256 rows"
    )


def test_all_faults_are_told_together_in_reading_order() -> None:
    text = edit("name: mine", "name: 3").replace("k: [3, 5]", "k: [3, 4]").replace("classes: 10", "classes: x")
    found = faults(text)
    assert [f.partition(":")[0] for f in found] == ["name", "blocks[0].k[1]", "head.classes"]


def test_a_single_choice_is_fixed_whatever_its_form() -> None:
    plain = parse_space(edit("e: 3, k: [3, 5]", "op: conv, k: 5")).spec((0,))
    named = parse_space(edit("e: 3, k: [3, 5]", "op: [{name: x, op: conv, k: 5}]"))
    assert named.names == ("b_e",)
    assert named.spec((0,), "n").rows == plain.rows
    # a named choice overrides what is written beside it, alone or among others
    beside = parse_space(edit("e: 3, k: [3, 5]", "k: 3, op: [{name: x, op: conv, k: 5}]"))
    among = parse_space(edit("e: 3, k: [3, 5]", "k: 3, op: [{name: x, op: conv, k: 5}, dsconv]"))
    assert beside.spec((0,)).rows == among.spec((0, 0)).rows == plain.rows
    assert among.spec((1, 0)).rows[0].k == 3


def test_squeezes_never_exceed_what_they_squeeze() -> None:
    text = edit("out: 16, e: 3, k: [3, 5]", "out: [1, 2, 3], op: [conv, dsconv, mbconv], se: [0, 1]")
    for se_of in ("input", "expansion"):
        space = parse_space(text.replace("name: mine", f"name: mine\nse_of: {se_of}\nse_ratio: 1"))
        for genome in itertools.product(*(range(n) for n in space.sizes)):
            space.spec(genome)  # DocumentError: squeeze channels may not exceed exp


def test_load_by_name_and_by_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_space(path) == load_space(str(path)) == parse_space(GOOD)
    assert load_space("mnasnet").name == "mnasnet"


@pytest.mark.parametrize("name", ["mnasnett", "", "\0", "x" * 5000, "imagenet"])
def test_neither_name_nor_file(name: str) -> None:
    with pytest.raises(BadInput, match="is neither a YAML file nor one of the spaces mnasnet,"):
        load_space(name)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(f"{tmp_path}/no.yaml: no such space file")):
        load_space(tmp_path / "no.yaml")
