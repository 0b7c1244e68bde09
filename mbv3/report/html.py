"""HTML by construction: everything is escaped unless it is `Html` already, every tag is closed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from unicodedata import category

__all__ = [
    "ABSENT",
    "Html",
    "bar",
    "clip",
    "count_text",
    "fixed",
    "join",
    "ms_text",
    "section",
    "table",
    "tag",
    "why",
]

_VOID = frozenset({"br", "meta"})
ABSENT = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(value: object) -> Html:
    """`value` as HTML: escaped, unless it is HTML already."""
    if isinstance(value, Html):
        return value
    return Html(escape(_visible(str(value)), quote=True))


def _visible(text: str) -> str:
    """`text` with control and direction characters made visible."""
    return "".join("�" if category(c)[0] == "C" and c not in "\n\t" else c for c in text)


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts side by side."""
    return Html(between.join(html(p) for p in parts))


def tag(kind: str, *children: object, **attributes: str | None) -> Html:
    """An element. `class_` writes `class`, other underscores become hyphens; None leaves an attribute out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if kind in _VOID:
        return Html(f"<{kind}{pairs}>")
    return Html(f"<{kind}{pairs}>{join(children)}</{kind}>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, marked: Iterable[int] = ()) -> Html:
    """A table that scrolls sideways on a narrow screen. Columns whose title starts with # hold numbers."""
    numeric = [title.startswith("#") for title in head]
    bold = frozenset(marked)
    top = tag(
        "tr",
        *(tag("th", t.lstrip("#"), scope="col", class_="n" if n else None) for t, n in zip(head, numeric, strict=True)),
    )
    body = (
        tag(
            "tr",
            *(tag("td", cell, class_="n" if n else None) for cell, n in zip(row, numeric, strict=True)),
            class_="chosen" if i in bold else None,
        )
        for i, row in enumerate(rows)
    )
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="scroll", tabindex="0")


def section(anchor: str, title: str, *children: object) -> Html:
    """A titled part of the page."""
    return tag("section", tag("h2", title), *children, id=anchor)


def why(sentence: str) -> Html:
    """The sentence that stands where a part is left out."""
    return tag("p", sentence, class_="why")


def bar(share: float, text: str, *, behind: float = 0.0, light: bool = False) -> Html:
    """A number with a bar of `share` (0 to 1) of the cell; `behind` draws a second, paler bar."""
    inner = [tag("i", style=f"width:{_percent(behind)}", class_="pale")] if behind else []
    inner.append(tag("i", style=f"width:{_percent(share)}", class_="pale" if light else None))
    return tag("span", tag("span", text), tag("span", *inner, class_="bar"), class_="barred")


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def fixed(value: float | None, digits: int, *, sign: bool = False, unit: str = "") -> str:
    """`value` with so many decimals, a dash when there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") + unit


def ms_text(value: float | None, *, sign: bool = False) -> str:
    """Milliseconds with about four digits."""
    size = abs(value or 0.0)
    return fixed(value, 1 if size >= 100 else 2 if size >= 1 else 3, sign=sign)


def count_text(value: float | None) -> str:
    """A count in thousands or millions: 5.48 M, 217 M, 12.3 k."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            size = abs(value) / scale
            return f"{value / scale:,.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}{unit}"
    return f"{value:g}"


def clip(text: str, width: int = 34) -> str:
    """`text` short enough for a label in a figure."""
    shown = " ".join(_visible(text).split())
    return shown if len(shown) <= width else shown[: width - 1] + "…"
