"""matplotlib figures as inline SVG that follows the page's light or dark colours.

Figures are drawn in six stand-in colours, which become CSS variables afterwards. Ids, namespaces and
metadata are rewritten so that several figures share one HTML page and equal input gives equal bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mbv3.report.html import Html

__all__ = ["BLUE", "GREEN", "GRID", "INK", "MUTED", "ORANGE", "draw", "label_lines", "spread"]

INK, MUTED, GRID, BLUE, ORANGE, GREEN = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green"}
_RC: dict[Any, Any] = {
    "svg.hashsalt": "mbv3",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.4,
}


def draw(
    name: str,
    alt: str,
    paint: Callable[[Sequence[Axes]], None],
    *,
    size: tuple[float, float] = (4.5, 3.3),
    panels: int = 1,
) -> Html:
    """What `paint` draws on `panels` stacked axes, as an inline SVG element."""
    out = StringIO()
    with mpl.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has the glyph
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        axes: list[Axes] = []
        for i in range(panels):
            axes.append(figure.add_subplot(panels, 1, i + 1, sharex=axes[0] if axes else None))
        paint(axes)
        figure.savefig(
            out,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _inline(out.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> Html:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)  # its `*` rule would reach the whole page
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    root = re.search(r'viewBox="([^"]*)"', svg)
    view = root[1] if root else "0 0 400 300"
    svg = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="{view}" role="img" aria-label="{escape(alt, quote=True)}">',
        svg,
        count=1,
    )
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"font: (?:[a-z]+ )*([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Html(re.sub(r"\n\s*", "\n", svg).strip())


def spread(wanted: Sequence[float], gap: float) -> tuple[float, ...]:
    """Ascending positions as near as they can be to `wanted` (ascending), at least `gap` apart.

    Neighbours that collide form a group, laid out around the middle of what its members wanted.
    """
    groups: list[list[float]] = []  # [sum of (wanted - offset in the group), members]

    def start(g: list[float]) -> float:
        return g[0] / g[1]

    for x in wanted:
        groups.append([x, 1.0])
        while len(groups) > 1 and start(groups[-2]) + gap * groups[-2][1] > start(groups[-1]):
            last = groups.pop()
            before = groups[-1]
            before[0] += last[0] - gap * before[1] * last[1]
            before[1] += last[1]
    return tuple(start(g) + gap * i for g in groups for i in range(int(g[1])))


def label_lines(ax: Axes, lines: Sequence[tuple[float, str, str]]) -> None:
    """Vertical lines at (x, label, colour), labelled above the axes without overlap."""
    if not lines:
        return
    ordered = sorted(lines)
    for x, _, colour in ordered:
        ax.axvline(x, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5)
    low, high = ax.get_xlim()
    span = (high - low) or 1.0
    places = spread([(x - low) / span for x, _, _ in ordered], 0.062)
    for (x, text, colour), place in zip(ordered, places, strict=True):
        ax.annotate(
            text,
            xy=((x - low) / span, 1.0),
            xytext=(place, 1.06),
            xycoords="axes fraction",
            textcoords="axes fraction",
            rotation=38,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
    ax.set_xlim(low, high)
