"""The HTML page of a run directory: its sections in order, and why one is missing."""

from __future__ import annotations

from pathlib import Path

from mbv3.report import comparison, fidelity, headline, network, provenance, taken, trace, trials
from mbv3.report.document import document, write_document
from mbv3.report.html import Html, html, join, tag, why
from mbv3.report.run_files import RunFiles, number, read_run

__all__ = ["page", "write_report"]

LISTED_FAULTS = 20


def write_report(run: Path) -> Path:
    """Write `report.html` into a run directory and return its path. Missing parts are left out with a reason.

    Raises:
        BadInput: `run` is not a folder, or the file cannot be written.
    """
    return write_document(run, page(read_run(run)))


def page(files: RunFiles) -> Html:
    """The HTML text. Equal input gives equal text."""
    info = headline.headline_info(files)
    body = tag(
        "main",
        headline.render(info),
        _record_faults(files),
        taken.render(taken.taken_info(files)),
        comparison.render(comparison.comparison_info(files)),
        trials.render(trials.trials_info(files), _trials_fault(files)),
        network.render(network.network_info(files), info.spec_fault),
        trace.render(trace.trace_info(files), _netadapt_fault(files)),
        fidelity.render(fidelity.fidelity_info(files), _table_fault(files)),
        *provenance.render(provenance.provenance_info(files)),
    )
    title = f"mbv3 search: {info.name}" if info.name else "mbv3 search"
    return document(title, body)


def _record_faults(files: RunFiles) -> Html:
    """Why run.json, or which of its fields, cannot be used."""
    if "run.json" in files.faults:
        return why(files.faults["run.json"])
    faults = files.record_faults
    if not faults:
        return html("")
    lines = [tag("li", str(f)) for f in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(tag("li", f"and {len(faults) - LISTED_FAULTS} more"))
    return join([why("Some fields of run.json cannot be used, and count as missing:"), tag("ul", *lines)])


_ENDED = {
    "running": "the run had not reached this stage",
    "interrupted": "the run was interrupted before this stage",
    "failed": "the run failed before or in this stage",
    "unreachable": "the target is out of reach, so this stage was not started",
}


def _missing(files: RunFiles, name: str) -> str:
    """Why a CSV cannot be shown, and whether the end of the run is the cause."""
    fault = files.faults.get(name, "")
    cause = _ENDED.get(files.record.status)
    return f"{fault.rstrip('.')}: {cause}." if cause and "is not in" in fault else fault


def _trials_fault(files: RunFiles) -> str:
    if files.record.init is not None and files.record.network is None and files.record.args.get("data"):
        return "The best networks of each resolution were scored with the supernet's weights: subnets.csv has them."
    if files.record.init is not None and files.record.network is not None:
        return "No space was searched: the network of the weights was cut. Its candidates are in candidates.csv."
    return _missing(files, "trials.csv")


def _netadapt_fault(files: RunFiles) -> str:
    fault = _missing(files, "netadapt.csv")
    seed, target = files.record.seed_ms, number(files.record.target_ms)
    if "is not in" in fault and files.record.init is not None and files.record.status == "done":
        if files.record.network is None:
            return "Nothing was cut: the network is one of the supernet, and has its weights."
        return "The delivered network was not cut: what stands beside it above says why."
    if "is not in" in fault and seed is not None and target is not None and seed <= target:
        return f"NetAdapt had nothing to do: the seed, at {seed:g} ms, meets the target of {target:g} ms."
    return fault


def _table_fault(files: RunFiles) -> str:
    fault = _missing(files, "latency-table.csv")
    device = files.record.args.get("device")
    if "is not in" in fault and isinstance(device, str) and device.endswith(".csv"):
        return f"The latencies come from {device}, which was given to this run; it was not copied here."
    return fault
