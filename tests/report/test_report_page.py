"""The page: what is on it, that it is sound HTML, and that no missing part stops it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from mbv3.errors import BadInput
from mbv3.report import write_report

VOID = {"meta", "br"}
FILES = ["run.json", "trials.csv", "netadapt.csv", "latency-table.csv", "mobilenetv3.yaml", "seed.yaml"]
BROKEN = [b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"{", b"[1]", b"null", b'"a\n']
ODD: list[object] = [None, [], {}, "text", -1, 0, 10**400, True, float("inf"), [[1]], [{"ms": 1, "a": {}}]]


class Checker(HTMLParser):
    """Open and closed tags, ids, and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            assert not key.startswith("on"), key
            if key.endswith(("href", "src")) and not (value or "").startswith("#"):
                self.fetched.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(path: Path) -> str:
    """The page's visible text, after the checks that hold for every page."""
    source = path.read_text(encoding="utf-8")
    parser = Checker()
    parser.feed(source)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', source)) <= set(parser.ids)
    assert parser.fetched == []
    assert not parser.tags & {"script", "iframe", "object", "link", "img", "image"}
    assert "http://" not in source and "https://" not in source and "@import" not in source
    assert re.findall(r"url\((?!#)", source) == []
    return " ".join("".join(parser.text).split())


def test_values_are_on_the_page(run: Path) -> None:
    text = checked(write_report(run))
    for value in (
        "49.38",
        "49.71",
        "66.10",
        "AMD EPYC 9B14",
        "onnxruntime 1.31.1",
        "47.90 ms",
        "sha256:0f3a",
    ):
        assert value in text
    assert "± 0.210 ms" in text and "AMD EPYC 9B14, 2 cores, Linux x86_64, onnxruntime 1.31.1, 1 thread" in text
    assert "1.2 % below it" in text
    assert "88 was 120" in text and "504 was 672" in text
    assert "11 steps, 154 proposals compared" in text
    assert f"mbv3 verify '{run}'" in text
    assert "--resume" not in text  # the run is done
    assert "leave-one-out over the calibration networks" in text
    assert "5.31" in text and "plain sum of layers" in text
    assert "81.20" in text and "0.39" in text
    assert "count as missing" not in text


def test_three_figures_and_the_network(run: Path) -> None:
    source = write_report(run).read_text(encoding="utf-8")
    assert source.count("<svg ") == 3
    assert 'aria-label="Accuracy against latency of all trials"' in source
    assert "var(--orange)" in source and "#050505" not in source


def test_names_are_escaped(run: Path) -> None:
    source = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x^2$" in source
    assert "<b>not</b>" not in source


def test_a_reference_may_have_any_name(tmp_path: Path, sample: SimpleNamespace) -> None:
    names = ["<script>x</script>", "$a", "_hidden", "网络\x00\u202e", "n" * 500, ""]
    references = [{"name": n, "ms": 30.0 + i, "accuracy": 64.0 if i % 2 else None} for i, n in enumerate(names)]
    checked(write_report(sample.write(tmp_path / "run", references=references)))


def test_equal_input_gives_equal_bytes(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert [p.name for p in run.iterdir() if "report" in p.name] == ["report.html"]


@pytest.mark.parametrize("name", FILES)
def test_every_part_may_be_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    text = checked(write_report(run))
    assert name in text or name == "seed.yaml"


@pytest.mark.parametrize("turn", range(len(BROKEN)))
def test_every_part_may_be_broken(run: Path, turn: int) -> None:
    for i, name in enumerate(FILES):
        (run / name).write_bytes(BROKEN[(turn + i) % len(BROKEN)])
    text = checked(write_report(run))
    assert all(name in text for name in FILES if name != "seed.yaml")


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    text = checked(write_report(tmp_path))
    for name in ("run.json", "trials.csv", "netadapt.csv", "latency-table.csv", "mobilenetv3.yaml"):
        assert f"{name} is not in the run directory" in text
    assert "not measured" in text and "not scored" in text


def test_a_missing_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such run directory"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("turn", range(len(ODD)))
def test_every_field_may_be_anything(tmp_path: Path, sample: SimpleNamespace, turn: int, every: int) -> None:
    run = sample.write(tmp_path / "run")
    data = sample.record()
    for i, key in enumerate(data):  # over all turns, every field meets every value
        if (i + turn) % every == 0:
            data[key] = ODD[(turn + i) % len(ODD)]
    (run / "run.json").write_text(json.dumps(data))
    checked(write_report(run))


@pytest.mark.parametrize("name", ["trials.csv", "netadapt.csv", "latency-table.csv"])
def test_a_half_written_table_is_read_as_far_as_it_goes(run: Path, name: str) -> None:
    text = (run / name).read_text()
    (run / name).write_text(text[: len(text) * 2 // 3 + 3])
    assert "cannot be used" not in checked(write_report(run))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "interrupted", "exit": 4}, "nothing is lost. To continue: mbv3-search --resume "),
        ({"status": "unreachable", "exit": 3}, "No network of the space meets the target"),
        ({"status": "failed", "exit": 1}, "stopped on an error"),
        ({"status": "running", "exit": None}, "had not ended"),
        ({"status": "odd"}, "does not say how the run ended"),
        ({"measured_ms": None}, "its latency is a prediction"),
        ({"measured_ms": 51.0}, "misses the target: measured whole, it is 2.0 % above it"),
        ({"measured_ms": 50.0}, "meets the target"),
    ],
)
def test_the_end_state_is_explained(
    tmp_path: Path, sample: SimpleNamespace, changes: dict[str, object], sentence: str
) -> None:
    assert sentence in checked(write_report(sample.write(tmp_path / "run", **changes)))


def test_netadapt_without_work(tmp_path: Path, sample: SimpleNamespace) -> None:
    run = sample.write(tmp_path / "run", seed_ms=48.5)
    (run / "netadapt.csv").unlink()
    assert "the seed, at 48.5 ms, meets the target of 50 ms" in checked(write_report(run))
    (run / "netadapt.csv").write_text(sample.netadapt(steps=0))
    assert "NetAdapt left the seed as it was at 61.00 ms" in checked(write_report(run))


def test_a_given_table(tmp_path: Path, sample: SimpleNamespace) -> None:
    run = sample.write(tmp_path / "run", args={"device": "phone.csv"})
    (run / "latency-table.csv").unlink()
    assert "The latencies come from phone.csv" in checked(write_report(run))


def test_faulty_fields_of_the_record_are_named(tmp_path: Path, sample: SimpleNamespace) -> None:
    run = sample.write(tmp_path / "run", madds="<many>", status="odd", references=[{"name": 1}] * 30)
    text = checked(write_report(run))
    assert "Some fields of run.json cannot be used, and count as missing:" in text
    assert "madds: must be a whole number or null (got '<many>'); the file was edited" in text
    assert "and 72 more" in text  # status, madds, and three faults of each reference, of which 20 are listed


def test_the_report_of_a_run_of_0_1_0(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "golden" / "run-0.1.0", run)
    text = checked(write_report(run))
    assert "count as missing" not in text
    assert "The run ended. The network was not measured whole: its latency is a prediction." in text
    assert "60.89 %" in text and "imagenet, of the seed" in text and "1 step, 13 proposals compared" in text
    assert "Google Pixel 1, one big core, 1 core, Android aarch64, tflite 2018-2019, 1 thread" in text


def test_the_spec_stays_in_the_run(tmp_path: Path, sample: SimpleNamespace) -> None:
    run = sample.write(tmp_path / "run", spec="../outside.yaml")
    (tmp_path / "outside.yaml").write_text("name: secret")
    text = checked(write_report(run))
    assert "secret" not in text and "5.34 M" in text
