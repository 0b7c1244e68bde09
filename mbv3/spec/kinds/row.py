"""What a kind of row declares; everything else in the package asks only this.

A kind says which fields it has beside the common ones (`OWN`), which of them are kernels, what its inner channels
are, how it is lowered, and which tensors a head may tap. YAML, keys, checks, scaling, cuts, torch modules, graphs,
tables and spaces follow from that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mbv3.errors import Fault, shown
from mbv3.spec.document import Reader
from mbv3.spec.ops import Walk
from mbv3.spec.rows import MAX_CHANNELS, NL, NLS, SKIPS, Gate, Point, Skip, WidthRule, make_divisible
from mbv3.spec.values import whole

__all__ = ["Expanding", "Row"]

_RANGES = {
    "k": (1, 31), "exp": (1, MAX_CHANNELS), "out": (1, MAX_CHANNELS), "se": (0, MAX_CHANNELS), "s": (1, 4),
    "dilation": (1, 64),
}  # fmt: skip
_DEFAULTS = {"se": 0, "s": 1, "dilation": 1}
_DEFAULT_NLS: dict[str, NL] = {"se_nl": "RE", "out_nl": "NONE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a network: the fields that every kind has, and what may be asked of it.

    `cin` of every method: the row's input channels.
    """

    OWN: ClassVar[dict[str, str]] = {}  # further fields, each with its letter in a layer key
    EXTRA: ClassVar[dict[str, str]] = {"se_nl": "m"}  # nonlinearities, said only where they are not the default
    KERNELS: ClassVar[tuple[str, ...]] = ("k",)  # fields that are kernel sizes, in the order of the convolutions
    RANGES: ClassVar[dict[str, tuple[int, int]]] = _RANGES  # lowest and highest value of each whole number
    POINTS: ClassVar[tuple[Point, ...]] = ("out",)  # what a head may tap, in the order of the ops
    RESIDUAL: ClassVar[bool] = True  # where YAML has no skip: a residual iff stride 1 and in == out
    INNER_MAP: ClassVar[bool] = True  # writes a map of its inner channels and reads it back

    k: int  # kernel, odd
    out: int  # output channels
    se: int = 0  # squeeze channels, 0 for none
    nl: NL = "RE"
    s: int = 1  # stride
    skip: Skip = "none"
    dilation: int = 1
    se_nl: NL = "RE"  # inside squeeze-and-excitation

    # ---- what a kind has of its own ---------------------------------------------------------------------------

    @abstractmethod
    def inner(self, cin: int) -> int:
        """Channels between the row's convolutions, which SE squeezes."""

    @abstractmethod
    def walk(self, x: Walk, gate: Gate) -> None:
        """Write the row's ops from where `x` is."""

    def expands(self, cin: int) -> bool:
        """Whether a convolution of its own makes the inner channels, so that they can be cut by themselves."""
        return False

    def points(self, cin: int) -> tuple[Point, ...]:
        """The tensors that a head may tap, in the order of the ops."""
        return tuple(p for p in self.POINTS if p != "expand" or self.expands(cin))

    def stride_at(self, point: Point) -> int:
        """Input pixels a pixel of a tapped tensor, along one side."""
        return 1 if point == "expand" else self.s

    def alike(self, cin: int) -> Row:
        """The same layer in the most general kind that has it: equal layers become equal rows."""
        return self

    # ---- words ------------------------------------------------------------------------------------------------

    @classmethod
    def word(cls) -> str:
        """The kind's name in YAML, keys and messages."""
        return cls.__name__.lower()

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes in the order of the convolutions; 0 where there is none."""
        return tuple(getattr(self, f) for f in self.KERNELS)

    def frame(self) -> tuple[object, ...]:
        """Everything but the numbers of channels."""
        own = (getattr(self, f) for f in self.OWN if f != "exp")
        return (self.k, self.s, self.dilation, self.nl, self.skip, bool(self.se), *own, *self.extras())

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields in the order of YAML; a dilation of 1 is left out there, and what `extras` lists follows."""
        return ("k", *cls.OWN, "out", "se", "nl", "s", "skip", "dilation")

    def extras(self) -> tuple[tuple[str, NL], ...]:
        """(name, value) of every field of EXTRA that is not the default."""
        return tuple((n, v) for n in self.EXTRA if (v := getattr(self, n)) != _DEFAULT_NLS[n])

    def plain(self) -> Row:
        """With what does not reach the graph set to one value."""
        return self if self.se or self.se_nl == "RE" else replace(self, se_nl="RE")

    def pairs(self) -> Iterator[tuple[str, object]]:
        """(name, value) of what YAML and messages say of the row."""
        yield "op", self.word()
        for name in self.names():
            if name != "dilation" or self.dilation != 1:
                yield name, getattr(self, name)
        yield from self.extras()

    @classmethod
    def read(cls, r: Reader, cin: int) -> Row:
        """The row of a mapping; faults go to the reader."""
        values: dict[str, Any] = {}
        numbers = {name: (*cls.RANGES[name], *((_DEFAULTS[name],) if name in _DEFAULTS else ())) for name in cls.RANGES}
        for name in ("k", *cls.OWN, "out", "se"):
            values[name] = r.integer(name, *numbers[name])
        values["nl"] = r.word("nl", NLS)
        for name in ("s", "dilation"):
            values[name] = r.integer(name, *numbers[name])
        for name in cls.EXTRA:
            values[name] = r.word(name, NLS, _DEFAULT_NLS[name])
        joined = cls.RESIDUAL and values["s"] == 1 and cin == values["out"]
        values["skip"] = r.word("skip", SKIPS, "identity" if joined else "none")
        return cls(**values)

    # ---- invariants -------------------------------------------------------------------------------------------

    def faults(self, path: str, cin: int) -> Iterator[Fault]:
        """Every broken invariant."""
        for name in self.names():
            if name in self.RANGES:
                yield from whole(f"{path}.{name}", getattr(self, name), *self.RANGES[name])
        for name in self.KERNELS:
            k = getattr(self, name)
            if type(k) is int and k % 2 == 0 and (k or self.RANGES[name][0]):
                yield Fault(f"{path}.{name}", "must be odd", shown(k))
        for name in ("nl", *self.EXTRA):
            if getattr(self, name) not in NLS:
                yield Fault(f"{path}.{name}", f"must be one of {', '.join(NLS)}", shown(getattr(self, name)))
        yield from self._skip_faults(path, cin)

    def _skip_faults(self, path: str, cin: int) -> Iterator[Fault]:
        if self.skip not in SKIPS:
            yield Fault(f"{path}.skip", f"must be one of {', '.join(SKIPS)}", shown(self.skip))
        elif self.skip != "none":
            if cin != self.out:
                yield Fault(
                    f"{path}.skip",
                    "a skip adds input to output, so their channels must agree",
                    f"{cin} in, {self.out} out",
                    f"write out: {cin}, or skip: none",
                )
            if self.skip == "identity" and self.s != 1:
                rule = "an identity skip needs stride 1"
                yield Fault(f"{path}.skip", rule, f"s: {self.s}", "write skip: pool or none")

    # ---- other channels ---------------------------------------------------------------------------------------

    def scaled(self, width: float, cin: int, new_cin: int, exp_rule: WidthRule) -> Row:
        """The row with every width times `width`, after `new_cin` channels in place of `cin`; see scale_spec."""
        new = replace(self, out=make_divisible(self.out * width))
        return replace(new, se=_same_share(self.se, self.inner(cin), new.inner(new_cin)))

    def halved(self, inner: bool) -> Row:
        """The row with half its output and, where `inner`, half its own inner channels."""
        return replace(self, out=max(1, self.out // 2))

    def cut(self, cin: int, new_cin: int, out: int) -> Row | None:
        """The row between fewer channels; None where the kind cannot say it."""
        new = replace(self, out=out)
        return replace(new, se=_shrunk(self.se, self.inner(cin), new.inner(new_cin)))

    def cut_inner(self, cin: int, inner: int) -> Row | None:
        """The row with fewer inner channels; None where the kind cannot say it."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanding(Row):
    """A row whose inner channels are a number of its own."""

    OWN: ClassVar[dict[str, str]] = {"exp": "e"}

    exp: int  # channels after expansion, not a ratio

    def inner(self, cin: int) -> int:
        return self.exp

    def expands(self, cin: int) -> bool:
        return True

    def faults(self, path: str, cin: int) -> Iterator[Fault]:
        yield from Row.faults(self, path, cin)
        if type(self.se) is int and type(self.exp) is int and self.se > self.exp:
            yield Fault(f"{path}.se", "squeeze channels may not exceed exp", f"se {self.se}, exp {self.exp}")

    def scaled(self, width: float, cin: int, new_cin: int, exp_rule: WidthRule) -> Row:
        out = make_divisible(self.out * width)
        ratio = max(1, round(self.exp / cin * new_cin))
        rounded = make_divisible(self.exp * width if exp_rule == "table" else self.exp / cin * new_cin)
        exp = ratio if exp_rule == "ratio" else rounded
        exp = exp if self.expands(cin) else new_cin
        # MnasNet squeezes a share of the block's input, MobileNetV3 of its expansion
        block_in = self.se == max(1, cin // 4) and self.expands(cin)
        se = max(1, new_cin // 4) if block_in and self.se else _same_share(self.se, self.exp, exp)
        # channels that become equal make a residual, as in every family that scales (torchvision's rule)
        joins = self.skip == "none" and self.s == 1 and cin != self.out and new_cin == out
        return replace(self, out=out, exp=exp, se=min(se, exp), skip="identity" if joins else self.skip)

    def halved(self, inner: bool) -> Row:
        out = max(1, self.out // 2)
        if not inner:
            return replace(self, out=out)
        exp = max(1, self.exp // 2)
        quarter = self.se == make_divisible(self.exp / 4)
        se = make_divisible(exp / 4) if quarter else self.se // 2 if self.se > 1 else self.se
        return replace(self, out=out, exp=exp, se=se if self.se else 0)

    def cut(self, cin: int, new_cin: int, out: int) -> Row | None:
        plain = not self.expands(cin)  # no expansion: its inner channels are its input's
        new = replace(self, exp=new_cin if plain else self.exp, out=out)
        if not plain and not new.expands(new_cin):
            return None  # it would lose its expansion's convolution
        return replace(new, se=_shrunk(self.se, self.exp, new.exp))

    def cut_inner(self, cin: int, inner: int) -> Row | None:
        new = replace(self, exp=inner)
        return replace(new, se=_shrunk(self.se, self.exp, inner)) if new.expands(cin) else None


def _same_share(se: int, inner: int, new: int) -> int:
    """Squeeze channels after `inner` became `new`: the same share, by the rule the row follows."""
    if not se:
        return 0
    if se == make_divisible(inner / 4):
        return make_divisible(new / 4)  # MobileNetV3: a quarter of the expansion
    return max(1, round(se * new / inner))


def _shrunk(se: int, inner: int, new: int) -> int:
    """The same after a cut: never grown."""
    return se if inner == new else min(se, _same_share(se, inner, new))
