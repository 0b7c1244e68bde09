"""The head of the report: what was asked, what came out, and how the run ended."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mbv3.report.html import ABSENT, Html, count_text, fixed, html, join, ms_text, section, table, tag
from mbv3.report.read import Record, RunFiles, number
from mbv3.spec import count

__all__ = ["HeadlineInfo", "comparison", "headline_info", "render", "run_folder"]

_ENDINGS = {
    "running": "The run had not ended when this page was written; it shows what there was.",
    "interrupted": "The run was stopped before its end and loses nothing: {resume} goes on from here.",
    "unreachable": "No network of the space meets the target on this device, so none was handed over.",
    "failed": "The run stopped on an error; what is below was finished before it.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadlineInfo:
    """The figures at the top of the page; None where there is none."""

    name: str
    status: str
    exit_code: int | None
    target_ms: float | None
    measured_ms: float | None
    predicted_ms: float | None
    accuracy: float | None
    accuracy_kind: str
    accuracy_unit: str
    accuracy_note: str
    params: int | None
    madds: int | None
    device: str
    scale: str
    reference: str
    reference_ms: float | None
    resume: str
    spec_fault: str

    @property
    def over(self) -> float | None:
        """Measured time over the target, minus one: 0.02 is 2 % too slow."""
        if self.measured_ms is None or not self.target_ms:
            return None
        return self.measured_ms / self.target_ms - 1

    def ending(self) -> str:
        """What the end state means, in a sentence or two."""
        if self.status != "done":
            return _ENDINGS.get(self.status, "run.json does not say how the run ended.").format(resume=self.resume)
        if self.over is None:
            return "The run ended, but the network was not measured whole; its time is a prediction."
        much = fixed(100 * abs(self.over), 1, unit="\N{NO-BREAK SPACE}%")
        if self.over > 0:
            return f"The run ended, but the network misses the target: measured whole, it is {much} too slow."
        return f"The run ended and the network meets the target: measured whole, it is {much} below it."


def run_folder(files: RunFiles) -> str:
    """The run directory as the user named it, quoted for a shell."""
    return shlex.quote(files.record.part("args").text("out") or str(files.path))


def _device(record: Record) -> str:
    d = record.part("device")
    cores, threads = number(d.data.get("cores")), number(d.data.get("threads"))
    parts = [
        d.text("cpu") or d.text("name"),
        f"{cores:g} core{'' if cores == 1 else 's'}" if cores is not None else "",
        d.text("os") or d.text("system"),
        f"{d.text('runtime')} {d.text('runtime_version')}".strip(),
        f"{threads:g} thread{'' if threads == 1 else 's'}" if threads is not None else "",
    ]
    return ", ".join(p for p in parts if p)


def _scale(record: Record) -> str:
    s = record.part("scale")
    width, side = s.number("width"), s.data.get("resolution")
    side_text = " x ".join(str(v) for v in side) if isinstance(side, list) else str(side) if side is not None else ""
    parts = [f"width {width:g}" if width is not None else "", f"{side_text} px" if side_text else ""]
    text = ", ".join(p for p in parts if p)
    return f"{text}: {s.text('why')}" if text and s.text("why") else text or s.text("why")


def headline_info(files: RunFiles) -> HeadlineInfo:
    """The headline's figures."""
    r = files.record
    accuracy = r.part("accuracy")
    counts = count(files.spec) if files.spec is not None else None
    code = r.number("exit")
    return HeadlineInfo(
        name=files.spec.name if files.spec is not None else "",
        status=r.text("status"),
        exit_code=None if code is None else int(code),
        target_ms=r.number("target_ms"),
        measured_ms=r.number("measured_ms"),
        predicted_ms=r.number("predicted_ms"),
        accuracy=accuracy.number("value"),
        accuracy_kind=accuracy.text("kind"),
        accuracy_unit=accuracy.text("unit"),
        accuracy_note=accuracy.text("note"),
        params=counts.params if counts else None,
        madds=counts.madds if counts else None,
        device=_device(r),
        scale=_scale(r),
        reference=r.text("reference"),
        reference_ms=r.number("reference_ms"),
        resume=f"mbv3-search --resume {run_folder(files)}",
        spec_fault=""
        if files.spec is not None
        else next((v for k, v in files.faults.items() if k.endswith((".yaml", ".yml")) and k != "seed.yaml"), ""),
    )


def _tile(title: str, value: str, unit: str, missing: str, note: str = "") -> Html:
    figure = tag("b", value, " ", tag("small", unit)) if value != ABSENT else tag("b", missing, class_="none")
    return tag("div", tag("span", title), figure, tag("em", note) if note else "", class_="tile")


def render(info: HeadlineInfo) -> Html:
    """Title, end state, tiles, device."""
    state = info.status or "unknown"
    code = f" (exit {info.exit_code})" if info.exit_code is not None else ""
    good = state == "done" and info.over is not None and info.over <= 0
    unit = info.accuracy_unit
    tiles = join(
        [
            _tile("target", ms_text(info.target_ms), "ms", "not recorded"),
            _tile("measured", ms_text(info.measured_ms), "ms", "not measured"),
            _tile("predicted", ms_text(info.predicted_ms), "ms", "not predicted"),
            _tile("accuracy", fixed(info.accuracy, 2), unit, "not scored", info.accuracy_kind),
            _tile("parameters", count_text(info.params), "", "no network"),
            _tile("MAdds", count_text(info.madds), "", "no network"),
        ]
    )
    facts: list[tuple[str, object]] = [
        ("Network", info.name or info.spec_fault),
        ("Device", info.device or "not recorded"),
        ("Scale", info.scale),
        ("Accuracy is", info.accuracy_note),
    ]
    if info.reference:
        time = f"{ms_text(info.reference_ms)} ms" if info.reference_ms is not None else "not measured"
        facts.append(("Reference", f"{info.reference}: {time}"))
    return tag(
        "header",
        tag(
            "h1",
            f"mbv3 search: {info.target_ms:g} ms" if info.target_ms is not None else "mbv3 search",
        ),
        tag("p", tag("strong", f"{state}{code}", class_="good" if good else "state"), " ", info.ending()),
        tag("div", tiles, class_="tiles"),
        definitions(facts),
    )


def definitions(facts: list[tuple[str, object]]) -> Html:
    """A list of terms and what they are; empty ones are left out."""
    shown = [(k, v) for k, v in facts if v not in ("", None)]
    return tag("dl", *(join([tag("dt", k), tag("dd", v)]) for k, v in shown)) if shown else html("")


_DIGITS = {"ms": ms_text, "params": count_text, "madds": count_text}


def comparison(record: Record) -> Html:
    """The networks compared under one protocol, when run.json holds them."""
    rows = record.parts("comparison")
    if not rows:
        return html("")
    columns = list(dict.fromkeys(key for row in rows for key in row.data))
    titles = {"ms": "#ms", "params": "#parameters", "madds": "#MAdds"}

    def cell(row: Record, key: str) -> str:
        value = number(row.data.get(key))
        if value is None:
            return str(row.data[key]) if row.data.get(key) is not None else ABSENT
        if key in _DIGITS:
            return _DIGITS[key](value)
        return f"{value:,.0f}" if value == int(value) else fixed(value, 2)

    heads = [titles.get(c, c if c == "name" else f"#{c}") for c in columns]
    return section(
        "comparison",
        "Side by side",
        table(heads, [[cell(row, c) for c in columns] for row in rows]),
    )
