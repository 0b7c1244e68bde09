"""What commands print: lines, JSON, aligned columns."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["as_json", "columns", "dump", "out", "warn"]


def out(text: str) -> None:
    """To standard output."""
    print(text, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """A caveat, to standard error."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201


def as_json(value: Any) -> str:
    """One JSON object; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=1)


def dump(value: Any) -> None:
    """One JSON object, to standard output; numbers that are not finite become null."""
    out(as_json(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def columns(rows: list[list[str]]) -> str:
    """Rows of text in aligned columns; the first column is aligned to the left, the others to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    )
