"""What a user can do wrong: exit 2, one message with place, rule, value and cure, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3.latency import LatencyTable
from mbv3.runs import find_events
from mbv3.runs.options import parse_scale
from mbv3.space import load_space
from mbv3.tables import open as tables_module

from .conftest import SPACE, Said, computed_table, record
from .driven import Run

Command = Callable[..., Said]
FIFTY_MB = 50_000_000


def refused(said: Said, *words: str) -> str:
    """The message of a refusal: exit 2, nothing on stdout, no traceback, every one of `words` in it."""
    code, out, err = said
    assert code == 2 and out == "", (code, out, err)
    assert "Traceback" not in err
    for word in words:
        assert re.search(word, err), f"{word!r} is not in: {err}"
    return err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, which stays empty."""
    where = tmp_path / "here"
    where.mkdir()
    monkeypatch.chdir(where)
    return where


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["--target-ms is missing", "how many milliseconds"]),
        (("--target-ms", "-5"), ["--target-ms must be a number of milliseconds above 0", r"got -5"]),
        (("--target-ms", "0"), ["--target-ms must be a number of milliseconds above 0", r"got 0"]),
        (("--target-ms", "nan"), ["--target-ms must be a number of milliseconds above 0", r"got nan"]),
        (("--target-ms", "inf"), ["--target-ms must be a number of milliseconds above 0", r"got inf"]),
        (("--target-ms", "fast"), ["--target-ms: invalid float value: 'fast'"]),
        (("--target-ms", "5", "--scale", "huge"), ["--scale must be auto, 1, a width", "got 'huge'"]),
        (("--target-ms", "5", "--scale", "nan"), ["--scale", "0.1 to 4", "got 'nan'"]),
        (("--target-ms", "5", "--scale", "1x"), ["--scale", "got '1x'"]),
        (("--target-ms", "5", "--scale", "1x99999"), ["--scale", "16 to 2048", "got '1x99999'"]),
        (("--target-ms", "5", "--threads", "99"), ["--threads must be from 1 to", "got 99"]),
        (("--target-ms", "5", "--threads", "0"), ["--threads must be a whole number from 1", "got 0"]),
        (("--target-ms", "5", "--runtime", "tensorrt"), ["--runtime must be one of onnx", "tensorrt"]),
        (("--target-ms", "5", "--sampler", "grid"), ["--sampler", "grid", "evolution"]),
        (("--target-ms", "5", "--space", "mnassnet"), ["'mnassnet' is neither", "mnasnet-imagenet"]),
        (("--target-ms", "5", "--sampler", "solve", "--data", "x", "--accuracy", "train"), ["needs --accuracy imag"]),
        (("--target-ms", "5", "--final-epochs", "0", "--data", "x"), ["--final-epochs 0 trains nothing"]),
        (("--target-ms", "5", "--sampler", "solve", "--w", "-0.1"), ["--w belongs to a sampler"]),
        (("--target-ms", "5", "--sampler", "solve", "--trials", "9"), ["--trials belongs to a sampler", r"got 9\)"]),
        (("--target-ms", "5", "--accuracy", "supernet"), ["need images: give --data DIR", "got supernet"]),
        (("--target-ms", "5", "--accuracy", "train"), ["need images: give --data DIR", "got train"]),
        (("--target-ms", "5", "--test", "t"), ["--test needs --data"]),
        (("--target-ms", "5", "--trials", "0"), ["--trials must be a whole number from 1", "got 0"]),
        (("--target-ms", "5", "--seed", "-1"), ["--seed must be a whole number", "got -1"]),
        (("--target-ms", "5", "--seed-ratio", "nan"), ["--seed-ratio must be a number from 1 to 4", "got nan"]),
        (("--target-ms", "5", "--delta", "0"), ["--delta must be a number from 0.001", r"got 0\.0"]),
        (("--target-ms", "5", "--w", "0.07"), ["--w must be a number from -10 to 0", r"got 0\.07"]),
        (("--target-ms", "5", "--budget-minutes", "nan"), ["--budget-minutes must be a number from 0.01", "got nan"]),
        (("--target-ms", "5", "--max-params", "5.4x"), ["--max-params: must be a whole number", r"5.4M \(got 5.4x"]),
        (("--target-ms", "5", "--max-madds", "0.5"), ["--max-madds: must be a whole number", r"got 0\.5\)"]),
        (("--target-ms", "5", "--max-madds", "0"), ["--max-madds must be a whole number from 1", r"got 0\)"]),
        (("--target-ms", "5", "--max-mb", "-1"), ["--max-mb must be a number above 0", r"got -1"]),
        (("--target-ms", "5", "--device", "moon"), ["moon: no such latency table", "mbv3 latency build"]),
        (("--target-ms", "5", "--keep", "tail"), ["--keep tail: names sites of a network", "use it with --init"]),
        (("--target-ms", "5", "--workers", "2"), ["--workers 2: the ImageNet model scores thousands", "make no sense"]),
        (("--target-ms", "5", "--workers", "0"), ["--workers must be a whole number from 1"]),
        (("--target-ms", "5", "--storage", "study.log"), ["--storage: the ImageNet model scores thousands"]),
        (("--target-ms", "5", "--study", "x"), ["--study x: names a study of a storage; give it with --storage"]),
        (("--target-ms", "5", "--wings", "2"), ["unrecognized arguments: --wings 2"]),
    ],
)  # fmt: skip
def test_arguments(search: Command, here: Path, args: tuple[str, ...], words: list[str]) -> None:
    refused(search(*args), *words)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ("--keep", "rows[30]"),
            [r"--keep rows\[30\]: 'rows\[30\]' names nothing of mobilenet_v3_small", "rows 0 to 10"],
        ),
        (("--only", "wings"), ["--only wings: 'wings' names nothing", "there are expansions, bottlenecks"]),
        (("--only", "tail", "--keep", "tail"), ["there is nothing left to cut; name fewer sites to keep"]),
        (("--only", "tail"), ["--only tail: leaves nothing to single cuts, which are of expansions"]),
        (("--keep", "rows[0:11]", "--data", "x", "--delta", "0.1"), [r"--keep rows\[0:11\]: leaves nothing to single"]),
        (("--workers", "2"), ["--workers 2: fine-tunes the proposals of single cuts", "--preset paper"]),
        (("--workers", "2", "--data", "x", "--preset", "thorough"), ["--workers 2: fine-tunes the proposals"]),
        (("--workers", "0"), ["--workers must be a whole number from 1"]),
        (("--data", "x", "--init", "w.pth", "--preset", "paper"), ["--preset: belongs to a search from nothing"]),
    ],
)
def test_arguments_of_netadapt(mbv3: Command, here: Path, args: tuple[str, ...], words: list[str]) -> None:
    err = refused(mbv3("netadapt", "mobilenet_v3_small", "--target-ms", "5", *args), *words)
    assert len(err.splitlines()) == 1 and not list(here.iterdir())


def test_out_exists(search: Command, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("years of work")
    err = refused(search("--target-ms", "5", "--out", "mine"), "--out mine: already exists", "--resume mine")
    assert len(err.splitlines()) == 1
    (here / "file").write_text("x")
    refused(search("--target-ms", "5", "--out", "file"), "--out file: already exists")
    assert (here / "mine" / "thesis.tex").read_text() == "years of work" and (here / "file").read_text() == "x"
    assert len(list((here / "mine").iterdir())) == 1


@pytest.mark.parametrize("out", ["file/run", "/proc/nowhere/run", "x" * 300])
def test_out_cannot_be_made(search: Command, here: Path, out: str) -> None:
    (here / "file").write_text("x")
    refused(search("--target-ms", "5", "--out", out), "cannot be made")
    assert [p.name for p in here.iterdir()] == ["file"]


def test_out_is_a_link_to_nothing(search: Command, here: Path) -> None:
    (here / "disk").symlink_to(here / "unmounted")
    refused(
        search("--target-ms", "5", "--out", "disk"), "--out disk: is a link to .*unmounted, which is not there; mount"
    )
    assert not (here / "unmounted").exists()


# ---- images


def _missing(images: Path) -> None:
    shutil.rmtree(images)


def _file(images: Path) -> None:
    shutil.rmtree(images)
    images.write_text("x")


def _one_class(images: Path) -> None:
    shutil.rmtree(images / "dark")


def _no_images(images: Path) -> None:
    for file in images.glob("*/*.png"):
        file.rename(file.with_suffix(".txt"))


def _all_broken(images: Path) -> None:
    for file in images.glob("*/*.png"):
        file.write_bytes(file.read_bytes()[:20])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_missing, ["no such data folder"]),
        (_file, ["not a folder", "one folder of images a class"]),
        (_one_class, ["at least two classes", "found 1: light", "class folders"]),
        (_no_images, ["hold no images", r"\.png"]),
        (_all_broken, ["none of its images can be opened"]),
    ],
)
@pytest.mark.parametrize("verb", ["search", "netadapt"])
def test_data(
    search: Command, mbv3: Command, folder: Path, here: Path, fault: Callable[[Path], None], words: list[str], verb: str
) -> None:
    images = here.parent / "images"
    shutil.copytree(folder / "images", images)
    fault(images)
    if verb == "search":
        said = search("--target-ms", "5", "--data", images)
    else:
        said = mbv3("netadapt", "mobilenet_v3_small", "--target-ms", "5", "--data", images)
    refused(said, re.escape(str(images)), *words)
    assert not list(here.iterdir())


def test_other_classes_to_test_on_are_told_at_the_start(search: Command, folder: Path, here: Path) -> None:
    theirs = here.parent / "theirs"
    shutil.copytree(folder / "images", theirs)
    (theirs / "light").rename(theirs / "bright")
    said = search("--target-ms", "5", "--data", folder / "images", "--test", theirs)
    refused(said, re.escape(str(theirs)), r"class folder\(s\) bright are none of the training folder's \(dark, light\)")
    assert not list(here.iterdir())


def test_a_broken_image_is_named_and_the_run_goes_on_once_it_is_mended(
    search: Command, tiny: tuple[str, ...], folder: Path, here: Path
) -> None:
    images = here.parent / "images"
    shutil.copytree(folder / "images", images)
    bad = images / "light" / "3.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    args = [str(images) if a == str(folder / "images") else a for a in tiny]
    args += ["--supernet-steps", "2", "--trials", "5", "--finetune-steps", "0", "--delta", "0.1"]
    refused(search(*args, "--out", "run"), "1 of 66 images cannot be decoded; repair or remove", re.escape(str(bad)))
    assert record(here / "run")["status"] == "failed"
    left = sorted(p.name for p in (here / "run").iterdir() if not p.name.startswith("pixels-"))
    assert left == [".lock", "latency-table.csv", "run.json", "space.yaml"]
    bad.write_bytes(good)
    code, _, err = search("--resume", "run")
    assert code == 0, err
    assert record(here / "run")["status"] == "done" and "error" not in record(here / "run")


# ---- documents


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["1 fault"]),
        (SPACE[: len(SPACE) // 2], ["fault"]),
        (SPACE.replace("k: [3, 5]", "k: [3.0, true]", 1), ["3 faults", r"blocks\[0\].k\[0\]", r"got 3\.0", "got True"]),
        (SPACE + "colour: red\nsmell: 3\n", ["colour", "smell"]),
        (SPACE.replace("e: [2, 4]", "e: [2, 1e9]", 1), [r"blocks\[0\].e\[1\]", "from 0.25 to 16", "1000000000.0"]),
        ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9)), ["alias"]),
        ("x" * FIFTY_MB, ["1,?000,?000"]),
    ],
    ids=["empty", "truncated", "mistyped", "unknown keys", "huge number", "aliases", "50 MB"],
)
def test_space(search: Command, here: Path, text: str, words: list[str]) -> None:
    space = here.parent / "bad.yaml"
    space.write_text(text)
    refused(search("--target-ms", "5", "--space", space), r"bad\.yaml", *words)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: "", ["not a latency table"]),
        (lambda t: t[: len(t) // 2], ["truncated", "mbv3 latency build"]),
        (lambda t: t.replace('"mobilenet_v3_large"', '"mobilenet_v3_huge"'), ["a value was edited"]),
        (lambda t: t.replace("# format: ", "# format = ", 1), ["not (a latency table|valid JSON)"]),
        (lambda t: "x" * FIFTY_MB, ["at most 30,000,000 bytes"]),
    ],
    ids=["empty", "truncated", "edited", "no header", "50 MB"],
)
@pytest.mark.parametrize("verb", ["search", "show"])
def test_table(
    search: Command, mbv3: Command, folder: Path, here: Path, change: Callable[[str], str], words: list[str], verb: str
) -> None:
    table = here.parent / "bad.csv"
    table.write_text(change((folder / "imagenet.csv").read_text()))
    if verb == "search":
        said = search("--target-ms", "5", "--device", table)
    else:
        said = mbv3("show", "mobilenet_v2", "--device", table)
    refused(said, r"bad\.csv", *words)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("field", "value"),
    [("cpu", "Fake 9000"), ("threads", 2), ("runtime", "litert"), ("runtime_version", "0.1"), ("vector", "none")],
)
def test_a_table_of_another_device(search: Command, folder: Path, here: Path, field: str, value: object) -> None:
    computed_table(load_space(folder / "tiny.yaml"), **{field: value}).save(here / "theirs.csv")
    args = ("--target-ms", "5", "--device", "theirs.csv")
    err = refused(search(*args), "theirs.csv: this latency table was not measured on", "--force-table")
    assert f"  {field}: table {value!r}, here " in err and err.count(", here ") == 1
    assert [p.name for p in here.iterdir()] == ["theirs.csv"]


def test_a_forced_table_is_marked(search: Command, tiny: tuple[str, ...], folder: Path, here: Path) -> None:
    computed_table(load_space(folder / "tiny.yaml"), cpu="Fake 9000", threads=2).save(here / "theirs.csv")
    args = ["theirs.csv" if a == str(folder / "tiny.csv") else a for a in tiny]
    args[args.index("--target-ms") + 1] = "0.001"  # far away: it ends once the table is read
    code, _, err = search(*args, "--force-table", "--out", "run")
    assert code == 3
    assert "warning: forced: the latency table theirs.csv was measured elsewhere (cpu, threads differ)" in err
    assert any("measured elsewhere (cpu, threads differ)" in n for n in record(here / "run")["notes"])  # type: ignore[attr-defined]


# ---- resuming


def test_resume_of_what_is_no_run(search: Command, here: Path) -> None:
    refused(search("--resume", "nowhere"), "nowhere: not a run directory", "run.json")
    for name, text, word in (
        ("empty", "", "cannot be read"),
        ("half", '{"format": "mbv3-ru', "cannot be read"),
        ("list", "[1]", "its format must be mbv3-run/1"),
        ("bare", '{"format": "mbv3-run/1"}', "args: is missing"),
    ):
        (here / name).mkdir()
        (here / name / "run.json").write_text(text)
        refused(search("--resume", name), f"{name}/run.json: ", word)
        assert (here / name / "run.json").read_text() == text


def test_resume_with_edited_options(search: Command, here: Path, whole: Run) -> None:
    shutil.copytree(whole.path, here / "run")
    edited = record(whole.path)
    for args, word in (
        ({"target_ms": -1}, "above 0"),
        ({"wings": 2}, "no such option: wings"),
        ({}, "--target-ms is missing"),
    ):
        (here / "run" / "run.json").write_text(json.dumps({**edited, "args": args, "status": "running"}))
        refused(search("--resume", "run"), word)


def test_resume_takes_no_other_options(search: Command, whole: Run) -> None:
    refused(search("--resume", whole.path, "--trials", "9", "--w", "-1"), "own options; leave out --trials, --w")
    with pytest.raises(Exception, match="leave out --sampler"):
        next(find_events(resume=whole.path, sampler="tpe"))


def test_resume_of_a_finished_run_prints_its_result(search: Command, whole: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")}
    code, out, err = search("--resume", whole.path)
    assert code == 0 and "is finished" in err
    assert re.search(r"^predicted +\d", out, re.M) and str(whole.path / "mobilenetv3.yaml") in out
    code, out, _ = search("--resume", whole.path, "--json")
    assert code == 0 and json.loads(out) == record(whole.path)
    assert {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")} == before


def test_resume_of_a_finished_run_writes_its_report_again(search: Command, here: Path, whole: Run) -> None:
    shutil.copytree(whole.path, here / "run")
    (here / "run" / "report.html").unlink()
    assert search("--resume", "run")[0] == 0
    assert (here / "run" / "report.html").read_text().startswith("<!")


# ---- targets that cannot be met


@pytest.mark.parametrize("target", ["0.01", "900"])
def test_unreachable_by_a_table(search: Command, tiny: tuple[str, ...], here: Path, target: str) -> None:
    args = list(tiny)
    args[args.index("--target-ms") + 1] = target
    code, out, err = search(*args, "--out", "run")
    assert code == 3 and out == "" and "Traceback" not in err
    said = re.search(rf"a target of {target} ms cannot be met: .* take ([\d.]+) to ([\d.]+) ms", err)
    assert said is not None, err
    kept = record(here / "run")
    assert (kept["status"], kept["exit"]) == ("unreachable", 3)
    assert kept["range_ms"] == pytest.approx([float(said[1]), float(said[2])], rel=0.01)
    left = sorted(p.name for p in (here / "run").iterdir())
    assert left == [".lock", "latency-table.csv", "run.json", "space.yaml"]  # nothing trained, nothing searched


def test_unreachable_here(search: Command, folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real runtime: the ends of the space are timed, no table is built."""
    monkeypatch.setattr(tables_module, "build_table", lambda *a, **k: pytest.fail("a table was begun"))
    code, out, err = search("--target-ms", "0.0001", "--space", folder / "tiny.yaml", "--data", folder / "images",
                            "--scale", "1", "--out", "run")  # fmt: skip
    assert code == 3 and out == "" and "Traceback" not in err
    assert re.search(r"cannot be met: networks of space tiny at width 1, 32 px take [\d.e-]+ to [\d.e-]+ ms", err)
    assert "--scale auto fits the space" in err
    kept = record(here / "run")
    assert (kept["status"], kept["exit"]) == ("unreachable", 3)
    smallest, largest = kept["range_ms"]  # type: ignore[misc]
    assert 0.0001 < smallest < largest  # type: ignore[has-type]
    assert sorted(p.name for p in (here / "run").iterdir()) == [".lock", "run.json", "space.yaml"]


def test_scale_texts() -> None:
    assert parse_scale("auto") is None
    assert (parse_scale("1"), parse_scale("1.25x288")) == ((1.0, 0), (1.25, 288))


def test_a_table_too_small_to_estimate_from(search: Command, folder: Path, here: Path) -> None:
    """Told at once, not when NetAdapt first asks for a layer that the table lacks."""
    table = LatencyTable.load(folder / "tiny.csv")
    few = dict(list(table.layers.items())[:9])
    replace(table, layers=few, networks=()).save(here / "few.csv")
    refused(search("--target-ms", "1.4", "--device", "few.csv"), "few.csv: too small a table", "got 9")
    assert [p.name for p in here.iterdir()] == ["few.csv"]
