"""Sites named by hand."""

from __future__ import annotations

import pytest

from mbv3.errors import BadInput
from mbv3.spec import all_sites, among, load_spec, named_sites, sites


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
