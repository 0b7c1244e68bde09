"""Options declared once. A field of a frozen dataclass says what an option is:

    trials: int | None = option(None, "networks that the search scores", metavar="N", low=1, high=10**6)

and from it come the argument of the command line with its help, the check of its range, the signature of the Python
function, the command that repeats a run, and the `args` of run.json.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import shlex
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

from mbv3.errors import BadInput, plain, shown

__all__ = [
    "STUDY", "Option", "add_arguments", "always", "as_args", "check", "command_line", "counted", "declared", "existing",
    "from_args", "given", "moved", "option", "takes", "there",
]  # fmt: skip


class Declared(Protocol):
    """A dataclass whose fields are options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


D = TypeVar("D", bound=Declared)
F = TypeVar("F", bound=Callable[..., Any])
Names = Collection[str]
MOVED = ("data", "test")  # folders that may lie elsewhere when a run goes on
STUDY = ("storage", "study")  # which may be others when it goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One declared option. `kind` is bool, int, float or str; `needed`: it has no default."""

    name: str = ""
    kind: type = str
    may_be_none: bool = False
    default: Any = None
    needed: bool = False
    help: str = ""
    metavar: str = ""
    choices: Callable[[], Iterable[str]] | None = None
    above: float | None = None  # the value must be greater
    low: float | None = None
    high: float | None = None
    unit: str = ""
    is_path: Callable[[str], bool] | None = None
    parse: Callable[[str], Any] | None = None  # from the text of a command line; its ValueError says the rule

    @property
    def flag(self) -> str:
        return "--" + self.name.strip("_").replace("_", "-")  # `from_` is --from

    @property
    def rule(self) -> str:
        """What a value must be, for a message."""
        if self.choices is not None:
            return f"must be one of {', '.join(self.choices())}"
        if self.kind is bool:
            return "must be true or false"
        if self.kind is str:
            return "must be text"
        of = f" of {self.unit}" if self.unit else ""
        bounds = [("above", self.above), ("from", self.low), ("to", self.high)]
        inside = "".join(f" {word} {_short(value)}" for word, value in bounds if value is not None)
        return f"must be a {'whole ' if self.kind is int else ''}number{of}{inside}"

    def allows(self, value: object) -> bool:
        if value is None:
            return self.may_be_none
        if self.kind in (bool, str):
            return isinstance(value, self.kind) and (self.choices is None or value in tuple(self.choices()))
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.kind is float else int):
            return False
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
        )


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    metavar: str = "",
    choices: Iterable[str] | Callable[[], Iterable[str]] | None = None,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    is_path: Callable[[str], bool] | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A dataclass field that is an option; without `default` it must be given.

    `choices` may be a function, called when a value is checked, so that declaring loads no room. Bounds belong to
    int and float: `above` excluded, `low` and `high` included. `is_path(text)`: `text` is a path, kept absolute so that
    a run is resumed from any folder. `parse` reads a value that is written otherwise than Python writes it; its
    ValueError says the rule.
    """
    names = choices if callable(choices) or choices is None else (lambda found=tuple(choices): found)
    about = Option(
        help=help,
        metavar=metavar,
        choices=names,
        above=above,
        low=low,
        high=high,
        unit=unit,
        is_path=is_path,
        parse=parse,
    )
    return field(default=default, metadata={"option": about})


def always(text: str) -> bool:
    """`is_path` of an option that is a path whatever it says."""
    return True


def existing(text: str) -> bool:
    """`is_path` of an option that may also be a name."""
    return Path(text).exists()


def counted(text: str) -> int:
    """A whole number as people write it: 5400000, 5.4M, 219k."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([kKmMgG]?)", text.strip())
    value = float(found[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[found[2].lower()] if found else 0.5
    if not math.isfinite(value) or value != round(value):
        raise ValueError(f"must be a whole number, such as 5400000 or 5.4M (got {plain(text)})")
    return round(value)


def declared(cls: Any) -> tuple[Option, ...]:
    """The options of `cls`, in order."""
    kind: Any = cls
    return _declared(kind)


@cache
def _declared(cls: Any) -> tuple[Option, ...]:
    hints = get_type_hints(cls)
    found = []
    for f in fields(cls):
        about: Option = f.metadata["option"]
        kinds = get_args(hints[f.name]) or (hints[f.name],)
        [kind] = [k for k in kinds if k is not NoneType]
        found.append(
            Option(
                name=f.name, kind=kind, may_be_none=NoneType in kinds, needed=f.default is MISSING,
                default=None if f.default is MISSING else f.default, help=about.help, metavar=about.metavar,
                choices=about.choices, above=about.above, low=about.low, high=about.high, unit=about.unit,
                is_path=about.is_path, parse=about.parse,
            )
        )  # fmt: skip
    return tuple(found)


def check(options: Declared) -> None:
    """Every value is of its kind, in its range, one of its choices. Raises: BadInput with flag, rule and value."""
    for o in declared(type(options)):
        value = getattr(options, o.name)
        if not o.allows(value):
            got = plain(value) if isinstance(value, str) else shown(value)
            raise BadInput(f"{o.flag} {o.rule} (got {got})")


def as_args(options: Declared) -> dict[str, Any]:
    """The options as run.json keeps them."""
    return {o.name: getattr(options, o.name) for o in declared(type(options))}


def from_args(cls: type[D], values: Mapping[str, Any]) -> D:
    """Options from names and values, such as run.json's `args`; paths become absolute.

    Raises:
        BadInput: a name that is none, a value that cannot be, a needed option that is missing.
    """
    known = {o.name: o for o in declared(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadInput(f"no such option: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    for o in known.values():
        if o.needed and values.get(o.name) in (None, ""):
            raise BadInput(f"{o.flag} is missing: {o.help}")
    whole = {
        name: str(Path(value).resolve()) if (o := known[name]).is_path and isinstance(value, str) and o.is_path(value)
        else value for name, value in values.items()
    }  # fmt: skip
    return cls(**whole)


def moved(options: Mapping[str, Any], beside: Sequence[str] = ()) -> dict[str, Any]:
    """Those of `options` that a resumed run takes: where its images and study are now. `beside`: what else was given.

    Raises:
        BadInput: any other; a run goes on under its own.
    """
    others = sorted(name for name, value in options.items() if name not in MOVED + STUDY and value is not None)
    flags = [*beside, *(f"--{name.replace('_', '-')}" for name in others)]
    if flags:
        raise BadInput(f"--resume goes on with the run's own options; leave out {', '.join(flags)}")
    return {name: value for name, value in options.items() if value is not None}


def there(args: Mapping[str, Any], run: Path) -> None:
    """Raises: BadInput: the images of a run to go on with are not where they were."""
    for name in MOVED:
        place = args.get(name)
        if isinstance(place, str) and place.startswith(os.sep) and not os.path.exists(place):
            raise BadInput(
                f"--resume {run}: {place} is not there any more; put the images back, or say where the same ones are "
                f"now: --resume {run} --{name} DIR"
            )


def command_line(program: str, *positional: str, options: Declared, only: Names | None = None) -> str:
    """The command that repeats a run, for a shell: options that have their defaults are left out."""
    parts = [program, *map(shlex.quote, positional)]
    for o in _some(type(options), only):
        value = getattr(options, o.name)
        if value is True:
            parts.append(o.flag)
        elif value != o.default:
            parts.append(f"{o.flag} {shlex.quote(_short(value) if isinstance(value, float) else str(value))}")
    return " ".join(parts)


def add_arguments(parser: ArgumentParser, cls: type[Declared], only: Names | None = None) -> None:
    """The options of `cls`, all or `only` some, as arguments; one that is not given is not in the namespace."""
    for o in _some(cls, only):
        text = o.help.replace("%", "%%")
        if o.default is not None and o.default is not False:
            text += f" (default {_short(o.default) if isinstance(o.default, float) else o.default})"
        if o.kind is bool:
            parser.add_argument(o.flag, dest=o.name, action="store_true", default=SUPPRESS, help=text)
        else:
            kind = o.kind if o.parse is None else _said(o.parse)
            parser.add_argument(o.flag, dest=o.name, type=kind, default=SUPPRESS, metavar=o.metavar or None, help=text)


def _said(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` for argparse, which prints the message of its own error only."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as e:
            raise ArgumentTypeError(str(e)) from None

    return read


def given(args: Namespace, cls: type[Declared]) -> dict[str, Any]:
    """The options of `cls` that were given on the command line."""
    return {o.name: getattr(args, o.name) for o in declared(cls) if hasattr(args, o.name)}


def takes(cls: type[Declared], only: Names | None = None) -> Callable[[F], F]:
    """Decorator: the function's `**options` are those of `cls`; signature and docstring show them."""

    def shows(function: F) -> F:
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [o for o in _some(cls, only) if o.name not in own.parameters]
        hints = get_type_hints(cls)
        more = [
            inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=hints[o.name])
            for o in options
        ]
        function.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        lines = "\n".join(f"        {o.name}: {o.help}" for o in options)
        function.__doc__ = f"{inspect.getdoc(function)}\n\n    Options:\n{lines}\n"
        return function

    return shows


def _some(cls: type[Declared], only: Names | None) -> list[Option]:
    return [o for o in declared(cls) if only is None or o.name in only]


def _short(value: float) -> str:
    """As short as it can be without loss: 50, 0.001, 1e+38."""
    if value == round(value) and abs(value) < 1e12:
        return str(round(value))
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
