"""The end of the report: caveats, time by stage, and how to get the result again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mbv3.report.headline import definitions, resume_command, run_folder
from mbv3.report.html import Html, bar, fixed, section, table, tag, why
from mbv3.report.run_files import RunFiles

__all__ = ["ProvenanceInfo", "provenance_info", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceInfo:
    """What the closing sections show."""

    notes: tuple[str, ...]
    stages: tuple[tuple[str, float], ...]  # seconds
    commands: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]  # title, name in run.json, pairs

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(s for _, s in self.stages)


def _pairs(values: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Names and values as text; what is None is left out."""
    known = ((k, v) for k, v in values.items() if v is not None)
    return tuple((k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)) for k, v in known)


def provenance_info(files: RunFiles) -> ProvenanceInfo:
    """Where the result comes from."""
    r = files.record
    commands = [("Made by", r.command)]
    if r.status != "done":
        commands.append(("Resume", resume_command(files)))
    commands.append(("Verify", f"mbv3 verify {run_folder(files)}"))
    versions = {"mbv3": r.version, **r.versions} if r.version else r.versions
    return ProvenanceInfo(
        notes=r.notes,
        stages=tuple(r.stages.items()),
        commands=tuple((k, v) for k, v in commands if v),
        facts=(
            ("Seeds", "seeds", _pairs(r.seeds)),
            ("Hashes", "hashes", _pairs(r.hashes)),
            ("Versions", "versions", _pairs(versions)),
            ("Device", "device", _pairs(asdict(r.device)) if r.device is not None else ()),
            ("Arguments", "args", _pairs(r.args)),
        ),
    )


def _stages(info: ProvenanceInfo) -> Html:
    if not info.stages:
        return section("stages", "Time", why("run.json holds no stage timings."))
    total = info.total_s
    rows: list[list[object]] = [[k, bar(s / total if total else 0.0, fixed(s, 1))] for k, s in info.stages]
    return section("stages", "Time", table(["stage", "#seconds"], [*rows, ["sum", fixed(total, 1)]]))


def render(info: ProvenanceInfo) -> tuple[Html, ...]:
    """The closing sections."""
    caveats = tag("ul", *(tag("li", n) for n in info.notes)) if info.notes else why("run.json lists no caveats.")
    parts: list[Html] = [definitions([(k, tag("code", v)) for k, v in info.commands])]
    for title, name, pairs in info.facts:
        parts += [tag("h3", title), definitions(pairs) if pairs else why(f"run.json holds no {name}.")]
    return (
        section("notes", "Caveats", caveats),
        _stages(info),
        section("again", "How to get it again", *parts),
    )
