"""Figure 2: the network row by row."""

from __future__ import annotations

from dataclasses import dataclass

from mbv3.report.html import ABSENT, Html, bar, count_text, join, ms_text, section, table, tag, why
from mbv3.report.read import RunFiles
from mbv3.spec import ArchSpec, Classify, Dense, Head, Row, count

__all__ = ["NetworkInfo", "NetworkRow", "network_info", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRow:
    """One row of the figure. `was` holds what the seed had there, where it differs."""

    path: str
    row: Row | Head
    in_shape: tuple[int, int, int]  # (C, H, W)
    out_shape: tuple[int, int, int]
    params: int
    madds: int
    ms: float | None
    estimated: bool
    was: tuple[tuple[str, int], ...] = ()

    @property
    def op(self) -> str:
        return type(self.row).__name__.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInfo:
    """The network's rows and what they sum to."""

    name: str
    params: int
    madds: int
    rows: tuple[NetworkRow, ...]
    predicted_ms: float | None
    compared: bool  # against the seed

    @property
    def rows_ms(self) -> float | None:
        """Sum of the rows' times; None unless every timed row is known."""
        known = [r.ms for r in self.rows if r.ms is not None]
        return sum(known) if known else None


def _parts(spec: ArchSpec) -> dict[str, Row | Head]:
    return {**{path: row for path, row, _ in spec.convs()}, "head": spec.head}


def _changes(row: Row | Head, old: Row | Head | None) -> tuple[tuple[str, int], ...]:
    if old is None or type(old) is not type(row):
        return ()
    pairs = ((f, getattr(old, f, None), getattr(row, f, None)) for f in ("exp", "out", "se", "features"))
    return tuple((f, before) for f, before, now in pairs if before is not None and before != now)


def network_info(files: RunFiles) -> NetworkInfo | None:
    """Figure 2's numbers, or None without a final spec."""
    spec = files.spec
    if spec is None:
        return None
    counts, parts = count(spec), _parts(spec)
    comparable = files.seed is not None and len(files.seed.rows) == len(spec.rows)
    before = _parts(files.seed) if files.seed is not None and comparable else {}
    times = {r.text("path"): (r.number("ms"), r.data.get("estimated") is True) for r in files.record.parts("rows_ms")}
    rows = []
    for share in counts.by_row:
        ms, estimated = times.get(share.path, (None, False))
        rows.append(
            NetworkRow(
                path=share.path,
                row=parts[share.path],
                in_shape=share.in_shape,
                out_shape=share.out_shape,
                params=share.params,
                madds=share.madds,
                ms=ms,
                estimated=estimated,
                was=_changes(parts[share.path], before.get(share.path)),
            )
        )
    return NetworkInfo(
        name=spec.name,
        params=counts.params,
        madds=counts.madds,
        rows=tuple(rows),
        predicted_ms=files.record.number("predicted_ms"),
        compared=comparable,
    )


def _with(value: object, row: NetworkRow, field: str) -> Html:
    old = dict(row.was).get(field)
    note = tag("small", f" was {old}", class_="was") if old is not None else ""
    return join([value, note])


def _cells(r: NetworkRow, info: NetworkInfo, timed: bool) -> list[object]:
    widest = max((getattr(x.row, "exp", 0) or x.out_shape[0] for x in info.rows if x.path != "head"), default=1)
    row = r.row
    _, h, w = r.out_shape
    size = f"{h}" if h == w else f"{h}x{w}"
    if isinstance(row, Classify):
        features = _with(f"{row.features or ABSENT}", r, "features")
        cells: list[object] = [
            r.path,
            r.op,
            "",
            "",
            features,
            row.classes,
            "",
            row.nl,
            f"dropout {row.dropout:g}",
            size,
        ]
    elif isinstance(row, Dense):
        cells = [r.path, r.op, "", "", "", row.classes, "", "", "", size]
    else:
        exp = getattr(row, "exp", 0)
        skip: str = "" if row.skip == "none" else row.skip
        skip += f" dilation {row.dilation}" if row.dilation != 1 else ""
        out = bar(row.out / widest, f"{row.out}", behind=exp / widest)
        kernels = "·".join(str(k or ABSENT) for k in row.kernels)
        kernel = tag("b", kernels) if max(row.kernels) > 3 else kernels
        cells = [
            *(r.path, r.op, kernel, row.s, _with(exp or "", r, "exp"), _with(out, r, "out")),
            *(_with(row.se or "", r, "se"), row.nl, skip, size),
        ]
    if timed:
        slowest = max(x.ms or 0.0 for x in info.rows) or 1.0
        text = f"{'≈' if r.estimated else ''}{ms_text(r.ms)}"
        cells.append(bar((r.ms or 0.0) / slowest, text))
    most = max(x.madds for x in info.rows) or 1
    largest = max(x.params for x in info.rows) or 1
    cells += [bar(r.madds / most, count_text(r.madds), light=True)]
    cells += [bar(r.params / largest, count_text(r.params), light=True)]
    return cells


def render(info: NetworkInfo | None, fault: str) -> Html:
    """The section, or why there is none."""
    title = "2. The network"
    if info is None:
        return section("network", title, why(fault))
    timed = info.rows_ms is not None
    head = ["row", "op", "#k", "#s", "#exp", "#out", "#se", "nl", "skip", "#side"]
    head += (["#ms"] if timed else []) + ["#MAdds", "#parameters"]
    text = f"{info.name}: {count_text(info.params)} parameters, {count_text(info.madds)} multiply-adds."
    text += " Bars under out: its channels, and paler the expansion. Side: pixels after the row."
    if info.rows_ms is not None:
        text += f" The rows' times sum to {ms_text(info.rows_ms)} ms"
        text += f"; the whole is predicted at {ms_text(info.predicted_ms)} ms" if info.predicted_ms is not None else ""
        text += "; ≈ marks an estimate." if any(r.estimated for r in info.rows) else "."
    else:
        text += " Times per row were not recorded."
    if info.compared:
        changed = sum(bool(r.was) for r in info.rows)
        text += (
            f" {changed} of {len(info.rows)} rows differ from the seed." if changed else " It is the seed, unchanged."
        )
    rows = [_cells(r, info, timed) for r in info.rows]
    return section("network", title, tag("p", text), table(head, rows))
