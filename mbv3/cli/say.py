"""What commands print: lines, JSON, aligned columns."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["columns", "dump", "out", "warn"]


def out(text: str) -> None:
    """To standard output."""
    print(text, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """A caveat, to standard error."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201


def dump(value: Any) -> None:
    """One JSON object to standard output; what is not finite is null."""
    from mbv3.cli.main import dump as text

    out(text(value))


def columns(rows: list[list[str]]) -> str:
    """Rows of text in aligned columns; the first column to the left, the rest to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    )
