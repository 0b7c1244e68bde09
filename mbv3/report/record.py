"""The end of the report: timings, versions, seeds, hashes, commands, caveats."""

from __future__ import annotations

import json

from mbv3.report.headline import definitions, run_folder
from mbv3.report.html import Html, bar, fixed, section, table, tag, why
from mbv3.report.read import Record, RunFiles, number

__all__ = ["render"]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _facts(record: Record) -> list[tuple[str, object]]:
    return [(key, _plain(value)) for key, value in record.data.items() if value is not None]


def _stages(record: Record) -> Html:
    stages = [(k, s) for k, v in record.part("stages").data.items() if (s := number(v)) is not None]
    if not stages:
        return section("stages", "Time", why("run.json holds no stage timings."))
    total = sum(s for _, s in stages)
    rows: list[list[object]] = [[k, bar(s / total if total else 0.0, fixed(s, 1))] for k, s in stages]
    return section("stages", "Time", table(["stage", "#seconds"], [*rows, ["sum", fixed(total, 1)]]))


def render(files: RunFiles) -> tuple[Html, ...]:
    """The closing sections."""
    r = files.record
    folder = run_folder(files)
    commands: list[tuple[str, object]] = [("Made by", r.text("command"))]
    if r.text("status") != "done":
        commands.append(("Resume", f"mbv3-search --resume {folder}"))
    commands.append(("Verify", f"mbv3 verify {folder}"))
    code = [(k, tag("code", v)) for k, v in commands if v]
    groups = [
        ("Seeds", "seeds"),
        ("Hashes", "hashes"),
        ("Versions", "versions"),
        ("Device", "device"),
        ("Arguments", "args"),
    ]
    parts: list[Html] = []
    for title, key in groups:
        facts = _facts(r.part(key))
        if key == "versions" and r.text("version"):
            facts.insert(0, ("mbv3", r.text("version")))
        parts.append(tag("h3", title))
        parts.append(definitions(facts) if facts else why(f"run.json holds no {key}."))
    notes = r.texts("notes")
    caveats = tag("ul", *(tag("li", n) for n in notes)) if notes else why("run.json lists no caveats.")
    return (
        section("notes", "Caveats", caveats),
        _stages(r),
        section("again", "How to get it again", definitions(list(code)), *parts),
    )
