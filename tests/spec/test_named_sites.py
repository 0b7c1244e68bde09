"""Sites named by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.errors import BadInput
from mbv3.spec import (
    LEAST_CHANNELS,
    all_sites,
    among,
    channels,
    cut,
    dump_spec,
    load_spec,
    named_sites,
    parse_spec,
    sites,
    smallest,
    with_head,
)


def test_sites_are_named_by_hand() -> None:
    spec = load_spec("mobilenet_v3_small")
    every = set(all_sites(spec))
    assert named_sites(spec) == every
    expansions = {s for s in every if s.kind == "expansion"}
    assert named_sites(spec, only="expansions") == named_sites(spec, only="expansion") == expansions
    assert named_sites(spec, keep="expansions") == every - expansions
    with_row = {s for s in every if s.kind in ("expansion", "bottleneck") and s.first <= 3 <= s.last}
    assert len(with_row) == 2 and named_sites(spec, only="rows[3]") == with_row
    assert named_sites(spec, only="rows[3:5], tail") == {
        s for s in every if (s.kind in ("expansion", "bottleneck") and s.first < 5 and s.last >= 3) or s.kind == "tail"
    }
    assert named_sites(spec, only="expansions", keep="rows[3]") == expansions - with_row


def test_a_head_is_named_by_hand() -> None:
    small = replace(load_spec("mobilenet_v3_small"), resolution=(64, 64))
    assert {s.kind for s in named_sites(small, only="head")} == {"features"}
    for head, names in {
        "lraspp": ["head.filters"],
        "lraspp-mmseg": ["head.branches[0]", "head.branches[1]", "head.filters"],
        "deeplabv3plus": ["head.filters", "head.low_filters"],
        "ssdlite": [f"head.extras[{i}]" for i in range(4)],
    }.items():
        spec = with_head(small, head, 5)
        own = named_sites(spec, only="head")
        assert sorted(map(str, own)) == names and own == named_sites(spec) - named_sites(spec, keep="head")
        assert own <= set(sites(spec))  # single cuts are made of them too
        for site in own:
            assert named_sites(spec, only=str(site)) == {site}
            smaller = cut(spec, site, 16)
            assert smaller is not None and channels(smaller, site) == 16
            assert parse_spec(dump_spec(smaller), "cut") == smaller
            assert all(channels(smaller, s) == channels(spec, s) for s in named_sites(spec) - {site})
    with pytest.raises(BadInput, match=r"'filters' names nothing of .*; there are .*, head\.filters, rows\[N\]"):
        named_sites(with_head(small, "lraspp", 5), only="filters")
    assert all(channels(smallest(spec, named_sites(spec)), s) == LEAST_CHANNELS for s in named_sites(spec, only="head"))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"keep": "rows[30]"}, r"--keep rows\[30\]: 'rows\[30\]' names nothing of .* rows 0 to 10"),
        ({"only": "expansions,wings"}, "'wings' names nothing of .*; there are expansions, bottlenecks, "),
        ({"only": "rows[5:2]"}, "names nothing"),
        ({"only": ""}, "'' names nothing"),
        ({"keep": "expansions,bottlenecks,stem,tail,features"}, "there is nothing left to cut; name fewer"),
        ({"only": "tail", "keep": "tail"}, "--only tail --keep tail: there is nothing left to cut"),
    ],
)
def test_a_name_that_names_no_site_is_told_with_those_that_there_are(asked: dict[str, str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        named_sites(load_spec("mobilenet_v3_small"), **asked)


def test_tied_bottlenecks_are_among_sites_where_all_their_rows_are() -> None:
    spec = load_spec("mobilenet_v3_small")
    some = named_sites(spec, only="bottlenecks")
    assert all(among(s, some) for s in sites(spec, "width") if s.kind == "bottleneck")
    one = named_sites(spec, only="rows[10]")
    assert not any(among(s, one) for s in sites(spec, "width") if s.kind == "bottleneck" and s.first < 8)
    assert among(sites(spec)[0], None)
