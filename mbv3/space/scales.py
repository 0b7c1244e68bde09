"""The scale of a space as text."""

from __future__ import annotations

from mbv3.errors import BadInput

__all__ = ["parse_scale"]


def parse_scale(text: str) -> tuple[float, int] | None:
    """None for auto, (width, resolution) for `1` or `1.25x288`. Raises: BadInput."""
    if text == "auto":
        return None
    width_text, x, res_text = text.partition("x")
    try:
        width = float(width_text)
        res = int(res_text) if x else 0
    except ValueError:
        width, res = -1.0, -1
    if not (0.1 <= width <= 4.0) or (x and not 16 <= res <= 2048):
        raise BadInput(
            f"--scale must be auto, 1, a width, or WIDTHxRESOLUTION such as 1.25x288 (width 0.1 to 4, 16 to 2048 "
            f"pixels; got {text!r})"
        )
    return width, res
