"""What every HTML page of a report has: its head, and a file that is never half written."""

from __future__ import annotations

import os
from pathlib import Path

from mbv3.errors import BadInput
from mbv3.report.html import Html, join, tag
from mbv3.report.style import CSS

__all__ = ["document", "write_document"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is fetched, no script runs


def document(title: str, body: Html) -> Html:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    return join([Html("<!DOCTYPE html>\n"), tag("html", head, tag("body", body), lang="en"), Html("\n")])


def write_document(folder: Path, text: Html) -> Path:
    """Write `report.html` into `folder` and return its path. Raises: BadInput: it cannot be written."""
    target, part = folder / "report.html", folder / ".report.html.part"
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        os.replace(part, target)
    except OSError as e:
        raise BadInput(f"{target}: cannot be written ({e.strerror})") from None
    return target
