"""A training's curve, and a contact sheet of what the network says about some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mbv3.report.fonts import drawn, fonts_for

__all__ = ["Box", "Panel", "class_colours", "contact_sheet", "training_curve"]

# a class may be called $$: no text is a formula
_PLAIN: Any = {"text.parse_math": False}
_WIDTH = 200  # characters that have room on a sheet, side by side
_BLUE, _ORANGE, _GREEN, _RED = "#2166ac", "#c2500a", "#157f5b", "#b2182b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box in pixels: left, top, right, bottom; its class; the network's, or the truth."""

    edges: tuple[float, float, float, float]
    text: str
    truth: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """An image (H, W, 3) with what the network says: a line of text, class maps (H, W) of truth and answer, boxes."""

    pixels: NDArray[np.uint8]
    text: str = ""
    right: bool | None = None
    masks: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    boxes: tuple[Box, ...] = ()


def class_colours(n: int) -> NDArray[np.uint8]:
    """(256, 3): one colour a class, evenly round the hues with changing lightness; black for what is ignored."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for i in range(min(n, 255)):
        hue = (i * 0.61803398875) % 1.0
        colours[i] = [round(255 * c) for c in mpl.colors.hsv_to_rgb((hue, 0.75, (0.95, 0.7, 0.5)[i % 3]))]
    return colours


def _cut(text: str, most: int) -> str:
    """Lines of at most `most` characters: what is left out of the middle is a few dots."""
    lines = text.split("\n")
    half = most // 2 - 1
    return "\n".join(x if len(x) <= most else f"{x[:half]}...{x[-half:]}" for x in lines)


def _png(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def training_curve(rows: Sequence[Mapping[str, float]], metric: str, title: str) -> bytes:
    """Loss and `metric` over the epochs, as a PNG. Rows have `epoch`, `loss` and, where it was scored, `metric`."""
    families, instead = fonts_for([title, metric])
    title, metric_text = drawn(title, instead), drawn(metric, instead)
    look: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.family": families,
        **_PLAIN,
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        left = figure.subplots()
        left.plot([r["epoch"] for r in rows], [r["loss"] for r in rows], color=_BLUE, linewidth=1.4)
        left.set_xlabel("epoch")
        left.set_ylabel("training loss", color=_BLUE)
        scored = [r for r in rows if metric in r]
        if scored:
            right = left.twinx()
            right.spines["right"].set_visible(True)
            right.plot([r["epoch"] for r in scored], [r[metric] for r in scored], color=_ORANGE, marker=".", ms=4)
            right.set_ylabel(f"{metric_text} on held-out images, %", color=_ORANGE)
        figure.suptitle(title)
        return _png(figure)


def contact_sheet(panels: Sequence[Panel], classes: Sequence[str], title: str) -> bytes:
    """Panels in rows, as a PNG: green where the network is right and red where not; the truth and the answer side by
    side for masks; for boxes the truth dashed."""
    masks = any(p.masks is not None for p in panels)
    columns = 2 if masks else min(4 if any(p.boxes for p in panels) else 8, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    colours = class_colours(len(classes))
    texts = [title, *classes, *(p.text for p in panels), *(b.text for p in panels for b in p.boxes)]
    families, instead = fonts_for(texts)
    with mpl.rc_context({"font.size": 7, "font.family": families, **_PLAIN}):
        figure = Figure(figsize=(11, max(1.6, rows * (1.75 if columns != 4 else 2.4)) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, panel in zip(axes, panels, strict=False):
            picture = panel.pixels
            if panel.masks is not None:
                truth, answer = (colours[np.clip(m, 0, 255)] for m in panel.masks)
                truth, answer = (np.round(0.4 * panel.pixels + 0.6 * m).astype(np.uint8) for m in (truth, answer))
                picture = np.concatenate([panel.pixels, truth, answer], axis=1)
            ax.imshow(picture, interpolation="nearest" if min(picture.shape[:2]) < 64 else None)
            tone = "#444444" if panel.right is None else (_GREEN if panel.right else _RED)
            ax.set_title(_cut(drawn(panel.text, instead), _WIDTH // columns), color=tone, fontsize=7, pad=2)
            for box in panel.boxes:
                x0, y0, x1, y1 = box.edges
                edge, dashes = ("#ffffff", ":") if box.truth else (_ORANGE, "-")
                ax.add_patch(
                    Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linestyle=dashes, linewidth=0.9)
                )
                if not box.truth:
                    over = "bottom" if y0 > 0.06 * len(picture) else "top"  # else it would lie over the title
                    ax.text(x0, y0, _cut(drawn(box.text, instead), _WIDTH // 8), color="white", fontsize=5, va=over,
                            bbox={"facecolor": _ORANGE, "pad": 0.5, "linewidth": 0})  # fmt: skip
        if masks:
            handles = [Rectangle((0, 0), 1, 1, color=colours[i] / 255) for i in range(len(classes))]
            names = [_cut(drawn(name, instead), _WIDTH // 11) for name in classes]
            figure.legend(handles, names, loc="outside lower center", ncols=min(len(classes), 11), fontsize=7)
        figure.suptitle(drawn(title, instead), fontsize=9)
        return _png(figure)
