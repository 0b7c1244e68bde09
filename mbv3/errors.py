"""Every error that a user of mbv3 can meet.

Mbv3Error
 ├─ BadInput               wrong argument, document, folder or file (exit 2)
 │   ├─ DocumentError      a YAML or CSV document; lists every fault with its path
 │   └─ ForeignTable       a latency table of another device, runtime or thread count
 ├─ OutOfMemory            a batch, a set of images or a network that does not fit (exit 1)
 ├─ MissingLayerError      layers without a measurement; `.missing` lists every one
 └─ Unreachable            the target lies outside what the space can reach (exit 3)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "BadInput",
    "DocumentError",
    "Fault",
    "ForeignTable",
    "Mbv3Error",
    "MissingLayerError",
    "OutOfMemory",
    "Unreachable",
    "out_of_memory",
    "plain",
    "shown",
]


def shown(value: object, most: int = 60) -> str:
    """`value` as a message prints it: one line of at most `most` printable characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print a whole number of more than 4300 digits
        text = f"{type(value).__name__} too long to print"
    return text if len(text) <= most else text[: most - 3] + "..."


def plain(text: str, most: int = 60) -> str:
    """`text` itself where it is short and printable, else as `shown`: a name cannot steer the terminal."""
    return text if text.isprintable() and len(text) <= most else shown(text, most)


class Mbv3Error(Exception):
    """Base of every error that mbv3 raises on purpose."""

    exit_code = 1


class BadInput(Mbv3Error):
    """What the user gave cannot be used. The message says what, why, and the cure."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a document: where it is, the rule, the value met, and the cure."""

    path: str
    rule: str
    value: str = ""
    cure: str = ""

    def __str__(self) -> str:
        value = f" (got {self.value})" if self.value else ""
        cure = f"; {self.cure}" if self.cure else ""
        return f"{self.path}: {self.rule}{value}{cure}"


class DocumentError(BadInput):
    """A document breaks its rules; every fault is listed, not only the first (the message shows `most` of them)."""

    def __init__(self, source: str, faults: Iterable[Fault], most: int = 20) -> None:
        self.source = source
        self.faults = tuple(faults)
        lines = [f"  {f}" for f in self.faults[:most]]
        if len(self.faults) > most:
            lines.append(f"  and {len(self.faults) - most} more")
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([f"{plain(source, 4096)}: {count}", *lines]))


class ForeignTable(BadInput):
    """A latency table is used for something that it was not measured on."""

    def __init__(self, source: str, differing: Iterable[tuple[str, object, object]]) -> None:
        self.differing = tuple(differing)
        rows = [f"  {name}: table {theirs!r}, here {ours!r}" for name, theirs, ours in self.differing]
        super().__init__(
            "\n".join(
                [
                    f"{source}: this latency table was not measured on this set-up",
                    *rows,
                    "  build one here (mbv3 latency build), or pass --force-table to use it all the same",
                ]
            )
        )


class MissingLayerError(Mbv3Error):
    """A table has no row for some layers of a network."""

    exit_code = 2

    def __init__(self, missing: Iterable[str]) -> None:
        self.missing = tuple(missing)
        shown = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
        super().__init__(
            f"{len(self.missing)} layer(s) not in the latency table: {shown}; "
            "measure them on the device (mbv3 latency build) or allow estimates"
        )


class OutOfMemory(Mbv3Error):
    """What was asked for needs more memory than there is. The message names what makes it need less."""


# how numpy and Python, torch (CPU, CUDA), ONNX Runtime, C++ and Linux say it
_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "unable to allocate", "bad_alloc",
    "bad allocation", "failed to allocate memory", "not enough memory",
)  # fmt: skip


def out_of_memory(error: BaseException, cure: str = "--batch or --resolution") -> OutOfMemory | None:
    """The error to end with where `error`, of whatever library, says that memory ran out; None of any other one.

    `cure`: the options that make the work need less.
    """
    texts = [str(e) for e in (error, error.__cause__, error.__context__) if e is not None]
    text = next((t for t in texts if any(word in t.lower() for word in _MEMORY)), "")
    if not isinstance(error, MemoryError) and not text:
        return None
    line = next((x.strip() for x in text.splitlines() if any(word in x.lower() for word in _MEMORY)), "")
    return OutOfMemory(f"out of memory{f' ({plain(line, 160)})' if line else ''}; take a smaller {cure}, or end other "
                       "programs")  # fmt: skip


class Unreachable(Mbv3Error):
    """No network of the space meets the target on this device."""

    exit_code = 3

    def __init__(self, message: str, smallest_ms: float, largest_ms: float) -> None:
        self.smallest_ms = smallest_ms
        self.largest_ms = largest_ms
        super().__init__(message)
