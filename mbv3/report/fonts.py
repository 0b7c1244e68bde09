"""Text that can be drawn: a font of this machine for every character, or the character's number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from matplotlib import font_manager

__all__ = ["drawn", "fonts_for"]


_HALVES = frozenset(range(0xD800, 0xE000))


@cache
def _has(path: str) -> frozenset[int]:
    """Characters of a font file; none of one that cannot be opened."""
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def fonts_for(texts: Iterable[str]) -> tuple[list[str], dict[int, str]]:
    """Families to draw `texts` with, the usual one first, and what stands for characters that no font here has, as
    `str.translate` takes it."""
    usual = font_manager.FontProperties()
    missing = {ord(c) for c in "".join(texts)} - {ord("\n")} - _has(font_manager.findfont(usual))
    families = list(usual.get_family())
    fonts = font_manager.fontManager.ttflist if missing else []
    for entry in sorted(fonts, key=lambda e: e.name):
        # a last resort has a box for everything; half of a character of UTF-16 is none
        found = set() if entry.name.startswith("Last") else missing & _has(entry.fname) - _HALVES
        if found:
            families.append(entry.name)
            missing -= found
        if not missing:
            break
    return families, {c: f"[U+{c:04X}]" for c in missing}


def drawn(text: str, instead: Mapping[int, str]) -> str:
    """`text` with only characters that `fonts_for` found a font for."""
    return text.translate(dict(instead))
