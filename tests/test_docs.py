"""The documentation: every page is in the index, every link inside the repository leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import mbv3

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def links(page: Path) -> list[str]:
    """Targets of links and pictures that are files of the repository, without anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [f.partition("#")[0] for f in found if "://" not in f and not f.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    missing = [t for t in links(page) if not (page.parent / t).exists()]
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {p.name for p in index.parent.glob("*.md")} - {"README.md"}
    assert pages <= set(links(index))
    assert "docs/README.md" in links(ROOT / "README.md")


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == mbv3.__version__
    dates = re.findall(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert dates[0] == (citation["version"], str(citation["date-released"]))
    assert {r["type"] for r in citation["references"]} == {"conference-paper"}
