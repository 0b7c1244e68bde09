"""LiteRT's benchmark_model: a shell script that visits many models with it in turn, and the parser of its output."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mbv3.latency.protocol import FEWEST, p10

__all__ = ["SCRIPT", "ScriptOutput", "Visit", "read_output", "row", "visit_script"]

SCRIPT = "visit.sh"
# the defaults are 50 runs, 1 s, and 0.5 s to warm up; many short visits are better than few long ones
_FLAGS = "--num_runs=4 --min_secs=0.01 --warmup_runs=1 --warmup_min_secs=0 --use_xnnpack=true"
_LINE = re.compile(r"mbv3 (?P<word>visit|failed) ?(?P<value>[0-9]*)|count=(?P<count>[0-9]+)(?P<fields>.*)")


class Visit(NamedTuple):
    """One process of benchmark_model: its runs, their mean and deviation in ms.

    The mean is used and not the p5, which older versions do not print, and which is rounded to microseconds: an error
    of one or two percent for a small layer. The p10 over the visits leaves out processes that were disturbed."""

    runs: int
    mean_ms: float
    std_ms: float


class ScriptOutput(NamedTuple):
    """The visits as (model, visit), None for one without a time; the model that failed with its last output."""

    visits: list[tuple[int, Visit | None]]
    failed: tuple[int, str] | None


def visit_script(folder: str, command: str, threads: int, rounds: Sequence[Sequence[int]], most_s: float) -> str:
    """A POSIX shell script that runs `command` on models by number, round by round, until `most_s` seconds are used,
    and for at least FEWEST rounds. It removes `folder` when it ends, also when the connection is lost."""
    lines = [
        f"cd {folder} || exit 1",
        f"trap 'rm -rf {folder}' EXIT",
        "trap 'exit 1' HUP INT TERM PIPE",
        "began=$(date +%s)",
        "visit() {",
        '    echo; echo "mbv3 visit $1"',
        f'    {command} --graph="$1.tflite" --num_threads={threads} {_FLAGS} 2>&1 && return',
        '    echo; echo "mbv3 failed"; exit 1',
        "}",
        f"late() {{ [ $(($(date +%s) - began)) -ge {min(math.ceil(most_s), 10**6)} ]; }}",
    ]
    for r, models in enumerate(rounds):
        if r >= FEWEST:
            lines.append("late && exit 0")
        lines += [f"visit {i}" for i in models]
    return "\n".join([*lines, "exit 0", ""])


def _visit(count: str, fields: str) -> Visit | None:
    """From `count=4 first=.. curr=.. min=.. max=.. avg=.. std=..` in microseconds; one run, or equal runs, have only
    `curr`."""
    values = dict(re.findall(r"(\w+)=([0-9.e+]+)", fields))
    try:
        mean = values["curr" if count == "1" or "all same" in fields else "avg"]
        visit = Visit(int(count), float(mean) / 1e3, float(values.get("std", 0.0)) / 1e3)
    except (KeyError, ValueError):
        return None
    return visit if visit.runs and 1e-6 < visit.mean_ms < 1e7 and visit.std_ms < 1e7 else None


def read_output(text: str) -> ScriptOutput:
    """Parse the output of the script. The last line of times of a process is the measurement; earlier ones are the
    warm-up."""
    visits: list[tuple[int, Visit | None]] = []
    began, failed = 0, None
    for m in _LINE.finditer(text):
        if m["count"] is not None:
            if visits:
                visits[-1] = (visits[-1][0], _visit(m["count"], m["fields"]))
        elif m["word"] == "visit" and m["value"]:
            visits.append((int(m["value"]), None))
            began = m.end()
        elif m["word"] == "failed" and visits:
            words = [line.strip() for line in text[began : m.start()].split("\n") if line.strip()]
            failed = (visits.pop()[0], "; ".join(words[-2:]) or "it printed nothing")
    return ScriptOutput(visits, failed)


def row(visits: Sequence[Visit]) -> list[float | int]:
    """[p10 over the visits, number of runs, mean, standard deviation]; times in ms."""
    n = np.array([v.runs for v in visits], dtype=float)
    means, stds = np.array([v.mean_ms for v in visits]), np.array([v.std_ms for v in visits])
    mean = float((n * means).sum() / n.sum())
    variance = float((n * (stds**2 + (means - mean) ** 2)).sum() / n.sum())
    return [p10(means), int(n.sum()), mean, variance**0.5]
