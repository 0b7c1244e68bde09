"""A contact sheet of classes with any name: every character is drawn, or its number is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mbv3.report import Box, Panel, contact_sheet, training_curve
from mbv3.report.fonts import drawn, fonts_for

NAMES = ["$", "$$", "$\\frac{", "a_b^c", "猫", "дом", "بيت", "😀", "caf\udce9", "tab\there", "\x1b[31m", "", "<&>"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_without_a_word_of_the_library(name: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.int64)
    panels = [
        Panel(pixels=pixels, text=f"{name} 90 %\n(is {name})", right=False, masks=(mask, mask)),
        Panel(pixels=pixels, text="b", boxes=(Box(edges=(1, 1, 5, 5), text=name),)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert contact_sheet(panels, [name, "other"], name).startswith(b"\x89PNG")
        assert training_curve([{"epoch": 1, "loss": 1.0, name: 2.0}], name, name).startswith(b"\x89PNG")


def test_what_no_font_has_becomes_its_number() -> None:
    families, instead = fonts_for(["plain", "\ue123\udce9"])
    assert drawn("plain", instead) == "plain" and families
    assert drawn("a\udce9", instead) == "a[U+DCE9]"
    families, instead = fonts_for(["plain äöü\nдом"])
    assert instead == {} and len(families) == len(fonts_for([""])[0])


def test_a_long_name_stays_over_its_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text))
    panels = [Panel(pixels=np.zeros((8, 8, 3), np.uint8), text=f"{'x' * 90}{i}\n(is {i})") for i in range(8)]
    contact_sheet(panels, ["a"], "t")
    assert [t.split("\n")[1] for t in titles] == [f"(is {i})" for i in range(8)]
    assert all(len(line) <= 25 and line.endswith(f"x{i}") and "..." in line
               for i, t in enumerate(titles) for line in t.split("\n")[:1])  # fmt: skip
