"""Options declared once: arguments, help, checks, signature, command and record follow."""

from __future__ import annotations

import inspect
import json
import shlex
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mbv3
from mbv3.errors import BadInput
from mbv3.runs import Options, TrainOptions
from mbv3.runs.declare import (
    Option,
    add_arguments,
    always,
    as_args,
    check,
    command_line,
    counted,
    declared,
    from_args,
    given,
    option,
    takes,
)
from mbv3.runs.export_options import ExportOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    data: str = option(help="images", metavar="DIR", is_path=always)
    ms: float = option(5.0, "a time", above=0, high=100, unit="milliseconds")
    steps: int | None = option(None, "how many", metavar="N", low=1, high=10**6)
    kind: str = option("a", "which", choices=lambda: ("a", "b"))
    deep: bool = option(False, "or not, 100 % of it")

    def __post_init__(self) -> None:
        check(self)


def parsed(*argv: str, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    parser = ArgumentParser()
    add_arguments(parser, Some, only)
    return given(parser.parse_args(argv), Some)


def test_arguments_follow() -> None:
    assert parsed() == {}
    assert parsed("--ms", "7", "--steps", "3", "--deep", "--kind", "b") == {
        "ms": 7.0, "steps": 3, "deep": True, "kind": "b",
    }  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        parsed("--ms", "7", only=("steps",))
    parser = ArgumentParser(prog="p")
    add_arguments(parser, Some)
    text = " ".join(parser.format_help().split())
    assert "--data DIR images --ms MS a time (default 5)" in text and "100 % of it" in text
    assert "(default None)" not in text and "(default False)" not in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ms": 0.0}, r"--ms must be a number of milliseconds above 0 to 100 \(got 0\.0\)"),
        ({"ms": float("nan")}, r"--ms must be a number .* \(got nan\)"),
        ({"ms": True}, r"--ms must be a number .* \(got True\)"),
        ({"steps": 0}, r"--steps must be a whole number from 1 to 1000000 \(got 0\)"),
        ({"steps": 2.0}, r"--steps must be a whole number .* \(got 2\.0\)"),
        ({"kind": "c"}, r"--kind must be one of a, b \(got c\)"),
        ({"kind": "\x1b[2J"}, r"--kind must be one of a, b \(got '\\x1b"),
        ({"deep": 1}, r"--deep must be true or false \(got 1\)"),
        ({"kind": None}, r"--kind must be one of a, b \(got None\)"),
        ({"data": None}, r"--data is missing: images"),
        ({"wings": 2, "legs": 1}, r"no such option: legs, wings; there are data, deep, kind, ms, steps"),
    ],
)
def test_a_value_that_cannot_be_names_flag_rule_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        from_args(Some, {"data": "x", **values})


def test_bounds_are_included_or_not_as_declared() -> None:
    o = Option(kind=float, above=0, high=2)
    assert [o.allows(v) for v in (0, 1e-300, 2, 2.0000001, float("inf"), "1", None)] == [
        False, True, True, False, False, False, False,
    ]  # fmt: skip
    assert Option(kind=int, may_be_none=True).allows(None) and not Option(kind=int).allows(True)


def test_paths_become_absolute_and_the_record_gives_the_options_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = from_args(Some, {"data": "here", "steps": 4})
    assert one.data == str(tmp_path / "here")
    assert from_args(Some, json.loads(json.dumps(as_args(one)))) == one


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"data": "d"}, "go net --data d"),
        ({"data": "my dir", "ms": 0.1, "deep": True}, "go net --data 'my dir' --ms 0.1 --deep"),
        ({"data": "d", "ms": 3.456789012, "steps": 7}, "go net --data d --ms 3.456789012 --steps 7"),
    ],
)
def test_the_command_repeats_the_options(values: dict[str, Any], text: str) -> None:
    options = Some(**values)
    assert command_line("go", "net", options=options) == text
    parser = ArgumentParser()
    add_arguments(parser, Some)
    assert Some(**given(parser.parse_args(shlex.split(text)[2:]), Some)) == options


def test_the_signature_shows_the_options() -> None:
    @takes(Some)
    def work(spec: str, *, out: str | None = None, **options: Any) -> None:
        """Works."""

    shown = inspect.signature(work).parameters
    assert list(shown) == ["spec", "out", "data", "ms", "steps", "kind", "deep"]
    assert shown["ms"].default == 5.0 and shown["steps"].annotation == int | None
    assert "Works." in str(work.__doc__) and "steps: how many" in str(work.__doc__)


@pytest.mark.parametrize(("function", "options"), [(mbv3.train, TrainOptions), (mbv3.export_to, ExportOptions)])
def test_the_python_functions_take_what_the_command_takes(function: Any, options: Any) -> None:
    assert {o.name for o in declared(options)} <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("options", [Options, TrainOptions, ExportOptions])
def test_every_option_has_a_help_and_its_default_is_allowed(options: Any) -> None:
    for o in declared(options):
        assert (o.help and o.help[0].islower()) or o.help[0] == "N" or o.help.startswith("NetAdapt"), o.name
        assert o.needed or o.allows(o.default), o.name
        assert o.metavar or o.kind is bool, o.name


def test_a_count_is_read_as_people_write_it() -> None:
    assert [counted(t) for t in ("5400000", "5.4M", "219m", "1.5k", "2G", " 7 ", ".5M")] == [
        5_400_000, 5_400_000, 219_000_000, 1500, 2 * 10**9, 7, 500_000,
    ]  # fmt: skip
    for text in ("", "M", "-3", "1.5", "5,4M", "1e6", "inf", "nan", "0x10", "5 M", "9" * 400):
        with pytest.raises(ValueError, match="must be a whole number, such as 5400000 or"):
            counted(text)
    o = Options.of({"target_ms": 5, "max_params": 5_400_000, "max_mb": 2.5})
    assert "--max-params 5400000 --max-mb 2.5" in o.command() and Options.of(o.as_dict()) == o
