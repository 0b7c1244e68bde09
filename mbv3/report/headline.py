"""The head of the report: the target, the result, and how the run ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from mbv3.record import Accuracy, Bound, Device, DeviceTime, Limit, Scale
from mbv3.report.html import ABSENT, Html, count_text, fixed, html, join, ms_text, tag
from mbv3.report.run_files import RunFiles, number
from mbv3.spec import count

__all__ = ["HeadlineInfo", "definitions", "headline_info", "render", "resume_command", "run_folder"]

_ENDINGS = {
    "running": "The run had not ended when this page was written. The page shows the finished stages.",
    "interrupted": "The run was interrupted and nothing is lost. To continue: ",
    "unreachable": "No network of the space meets the target on this device, so there is no result.",
    "failed": "The run stopped on an error. The page shows the stages that finished before it.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadlineInfo:
    """The figures at the top of the page; None where there is none."""

    name: str
    status: str
    exit_code: int | None
    target_ms: float | None
    measured_ms: float | None
    measured_error_ms: float | None
    predicted_ms: float | None
    accuracy: Accuracy | None
    params: int | None
    madds: int | None
    device: str
    scale: str
    reference: str
    reference_ms: float | None
    resume: str
    spec_fault: str
    bound: Bound | None = None
    limits: tuple[Limit, ...] = ()
    devices: tuple[DeviceTime, ...] = ()

    @property
    def over(self) -> float | None:
        """Measured time over the target, minus one: 0.02 is 2 % too slow."""
        if self.measured_ms is None or not self.target_ms:
            return None
        return self.measured_ms / self.target_ms - 1

    def ending(self) -> str:
        """What the end state means, in a sentence or two."""
        if self.status != "done":
            return _ENDINGS.get(self.status, "run.json does not say how the run ended.")
        if self.over is None:
            return "The run ended. The network was not measured whole: its latency is a prediction."
        much = fixed(100 * abs(self.over), 1, unit="\N{NO-BREAK SPACE}%")
        if self.over > 0:
            return f"The run ended, but the network misses the target: measured whole, it is {much} above it."
        return f"The run ended and the network meets the target: measured whole, it is {much} below it."


def run_folder(files: RunFiles) -> str:
    """The run directory, quoted for a shell."""
    return shlex.quote(str(files.path))


def resume_command(files: RunFiles) -> str:
    """The command that goes on with an interrupted run."""
    return f"mbv3-search --resume {run_folder(files)}"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _device(d: Device | None) -> str:
    if d is None:
        return ""
    runtime = f"{d.runtime} {d.runtime_version}".strip()
    parts = [d.cpu, _plural(d.cores, "core"), d.system, runtime, _plural(d.threads, "thread")]
    return ", ".join(p for p in parts if p)


def _scale(s: Scale | None) -> str:
    if s is None:
        return ""
    return f"width {s.width:g}, {s.resolution} px" + (f": {s.why}" if s.why else "")


def headline_info(files: RunFiles) -> HeadlineInfo:
    """The headline's figures."""
    r = files.record
    counts = count(files.spec) if files.spec is not None else None
    specs = (v for k, v in files.faults.items() if k.endswith((".yaml", ".yml")) and k != "seed.yaml")
    return HeadlineInfo(
        name=files.spec.name if files.spec is not None else "",
        status=r.status,
        exit_code=r.exit,
        target_ms=number(r.target_ms),
        measured_ms=r.measured_ms,
        measured_error_ms=r.measured_error_ms,
        predicted_ms=r.predicted_ms,
        accuracy=r.accuracy,
        params=counts.params if counts else None,
        madds=counts.madds if counts else None,
        device=_device(r.device),
        scale=_scale(r.scale),
        reference=r.reference or "",
        reference_ms=r.reference_ms,
        resume=resume_command(files),
        spec_fault="" if files.spec is not None else next(specs, ""),
        bound=r.bound,
        limits=r.limits,
        devices=r.devices,
    )


def _of(a: Accuracy) -> str:
    """What an accuracy is of: the found network where it has an error and a recipe, else the seed."""
    if a.error is None:
        return f"{a.kind}, of the seed"
    metric = "" if a.metric == "top-1" else f"{a.metric}, "
    return f"± {fixed(a.error, 1)}, {metric}{a.kind}" + (", extrapolated" if a.extrapolated else "")


def _tile(title: str, value: str, unit: str, missing: str, note: str = "") -> Html:
    figure = tag("b", value, " ", tag("small", unit)) if value != ABSENT else tag("b", missing, class_="none")
    return tag("div", tag("span", title), figure, tag("em", note) if note else "", class_="tile")


def render(info: HeadlineInfo) -> Html:
    """Title, end state, tiles, device."""
    code = f" (exit {info.exit_code})" if info.exit_code is not None else ""
    good = info.status == "done" and info.over is not None and info.over <= 0
    resume = tag("code", info.resume) if info.status == "interrupted" else ""
    a = info.accuracy
    error = f"± {ms_text(info.measured_error_ms)} ms" if info.measured_error_ms is not None else ""
    accuracy = a.value if a is not None else None
    of = _of(a) if a is not None and accuracy is not None else ""
    tiles = join(
        [
            _tile("target", ms_text(info.target_ms), "ms", "not recorded"),
            _tile("measured", ms_text(info.measured_ms), "ms", "not measured", error),
            _tile("predicted", ms_text(info.predicted_ms), "ms", "not predicted"),
            _tile("accuracy", fixed(accuracy, 2), a.unit if a is not None else "", "not scored", of),
            _tile("parameters", count_text(info.params), "", "no network"),
            _tile("MAdds", count_text(info.madds), "", "no network"),
        ]
    )
    facts: list[tuple[str, object]] = [
        ("Network", info.name or info.spec_fault),
        ("Device", info.device or "not recorded"),
        ("Scale", info.scale),
        ("Accuracy is", a.note if a is not None else ""),
    ]
    facts += [(f"At most {limit.most:,.10g} {limit.name}", f"it has {limit.found:,.10g}") for limit in info.limits]
    facts += [(f"On {d.name}", f"{ms_text(d.ms)} ms predicted") for d in info.devices]
    if info.bound is not None:
        gap = fixed(max(info.bound.most - info.bound.found, 0.0), 2)
        facts.append(("Bound", f"at most {gap} points better is possible under this table and model"))
    if info.reference:
        time = f"{ms_text(info.reference_ms)} ms" if info.reference_ms is not None else "not measured"
        facts.append(("Reference", f"{info.reference}: {time}"))
    return tag(
        "header",
        tag(
            "h1",
            f"mbv3 search: {info.target_ms:g} ms" if info.target_ms is not None else "mbv3 search",
        ),
        tag("p", tag("strong", f"{info.status}{code}", class_="good" if good else "state"), " ", info.ending(), resume),
        tag("div", tiles, class_="tiles"),
        definitions(facts),
    )


def definitions(facts: Iterable[tuple[str, object]]) -> Html:
    """A list of terms and their values; a term without a value is left out."""
    shown = [(k, v) for k, v in facts if v not in ("", None)]
    return tag("dl", *(join([tag("dt", k), tag("dd", v)]) for k, v in shown)) if shown else html("")
