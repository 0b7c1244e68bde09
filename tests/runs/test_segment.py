"""`mbv3-search --task segment`: the head counts in search and NetAdapt, and is in what is written and verified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbv3.runs import Options
from mbv3.space import load_space, scale, under_head
from mbv3.spec import LRASPP, lower, parse_resolution, pixels, read_spec, with_head
from mbv3.tables import space_id
from mbv3.tasks import TASKS

from .conftest import Said, computed_table, layer_ms, record, rows
from .driven import PREDICTED, Run, drive
from .test_bad_input import here, refused

__all__ = ["here"]

Command = Callable[..., Said]
TARGET = "10"  # ms; the space takes 5 to 41 by `layer_ms`


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Arguments of a whole run under a head of 7 classes, without --out."""
    space = under_head(scale(load_space("mnasnet-imagenet"), 0.35, (64, 96)), "lraspp-torchvision", 7)
    table = tmp_path_factory.mktemp("given") / "segment.csv"
    computed_table(space).save(table)
    return ("--task", "segment", "--classes", "7", "--resolution", "64x96", "--scale", "0.35", "--target-ms", TARGET,
            "--device", str(table), "--delta", "0.1")  # fmt: skip


@pytest.fixture(scope="module")
def done(given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("OMP_NUM_THREADS", "1")
        run = drive(*given, "--out", str(tmp_path_factory.mktemp("done") / "run"), "--json")
    assert run.code == 0, run.err
    return run


def test_what_is_found_is_the_network_with_its_head(done: Run) -> None:
    spec, r = read_spec(done.path / "mobilenetv3.yaml"), record(done.path)
    assert isinstance(spec.head, LRASPP) and spec.head.classes == 7 and spec.resolution == (64, 96)
    assert lower(spec)[-1].key.image == (64, 96) and spec.stride == 16
    assert (r["task"], r["head"], r["classes"], r["output_stride"]) == ("segment", "lraspp-torchvision", 7, 16)
    assert r["scale"]["resolution"] == "64x96"  # type: ignore[index]
    assert 0 < float(r["predicted_ms"]) <= float(TARGET)  # type: ignore[arg-type]
    head_ms = {row["path"]: row["ms"] for row in r["rows_ms"]}["head"]  # type: ignore[attr-defined]
    assert head_ms > 0
    for file in ("seed.yaml", *(p.relative_to(done.path) for p in (done.path / "curve").iterdir())):
        assert isinstance(read_spec(done.path / file).head, LRASPP)
    assert (done.path / "report.html").exists()
    assert any("head counts with its time" in note for note in r["notes"])  # type: ignore[attr-defined]
    assert not (done.path / "weights.safetensors").exists() and not (done.path / "mobilenetv3.onnx").exists()
    assert r["accuracy"]["kind"] == "imagenet" and r["accuracy"]["recipe"]  # type: ignore[index]


def test_every_trial_is_timed_with_its_head(done: Run, given: tuple[str, ...]) -> None:
    table = computed_table(under_head(scale(load_space("mnasnet-imagenet"), 0.35, (64, 96)), "lraspp-torchvision", 7))
    space = under_head(scale(load_space("mnasnet-imagenet"), 0.35, (64, 96)), "lraspp-torchvision", 7)
    for trial in rows(done.path / "trials.csv")[:20]:
        expected = table.latency_ms(space.deployed(space.genome(trial["genome"])))
        assert float(trial["latency_ms"]) == pytest.approx(expected, rel=1e-6)


def test_it_verifies_and_shows(mbv3: Command, done: Run, tmp_path: Path) -> None:
    code, out, err = mbv3("verify", done.path)
    assert code == 0 and "DIFFERS" not in out and "lraspp-torchvision, 7 classes" in out, out + err
    code, out, _ = mbv3("show", done.path / "mobilenetv3.yaml")
    assert code == 0 and "input 64x96" in out and " lraspp " in out
    shutil.copytree(done.path, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record(done.path), "classes": 8}))
    code, out, _ = mbv3("verify", tmp_path / "run")
    [line] = [x for x in out.splitlines() if x.startswith("head  ")]
    assert code == 1 and line.endswith("DIFFERS")


def test_an_interrupted_run_ends_in_the_same_network(done: Run, given: tuple[str, ...], tmp_path: Path) -> None:
    cut = drive(*given, "--out", str(tmp_path / "run"), fate=f"SIGKILL {PREDICTED}:40")
    assert cut.code == -9 and record(cut.path)["status"] == "running"
    resumed = drive("--resume", str(cut.path))
    assert resumed.code == 0, resumed.err
    name = "mobilenetv3.yaml"
    assert (cut.path / name).read_bytes() == (done.path / name).read_bytes()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--head", "lraspp"), ["--head belongs to --task segment", "got lraspp"]),
        (("--classes", "3"), ["--classes belongs to --task segment", "got 3"]),
        (("--output-stride", "8"), ["--output-stride belongs to --task segment", "got 8"]),
        (("--task", "segment", "--head", "ssdlite"), ["--head must be one of .*lraspp-torchvision", "got ssdlite"]),
        (("--task", "segment", "--classes", "0"), ["--classes must be a whole number from 1", "got 0"]),
        (("--task", "segment", "--data", "x"), ["x/images: no such folder; masks are trained on from"]),
        (("--task", "segment", "--resolution", "20"), ["may not be smaller than the network's stride", "32", "20x20"]),
        (("--task", "segment", "--output-stride", "12"), ["cannot take 12; its rows end at strides 2, 4, 8, 16, 32"]),
        (("--resolution", "512x"), ["--resolution must be a side or HEIGHTxWIDTH", "got '512x'"]),
        (("--resolution", "64", "--scale", "1x96"), ["both give a resolution", "got 1x96"]),
    ],
)  # fmt: skip
def test_bad_input(search: Command, here: Path, args: tuple[str, ...], words: list[str]) -> None:
    refused(search("--target-ms", "5", *args), *words)
    assert not list(here.iterdir())


def test_a_space_without_a_map_at_stride_8(search: Command, here: Path) -> None:
    shallow = here.parent / "mnasnet-imagenet.yaml"
    shallow.write_text(
        "format: mbv3-space/1\nname: shallow\ninput: {resolution: 32}\nstem: {k: 3, out: 16, nl: HS, s: 2}\n"
        "blocks:\n  - {name: a, s: 2, out: 16, e: [2, 4], k: 3}\nhead: {features: 32, classes: 2}\n"
    )
    with pytest.raises(Exception, match="needs a map at stride 8; the strides of shallow end at 4"):
        Options(target_ms=1.0, task="segment").headed(load_space(shallow))


def test_resolutions() -> None:
    assert (parse_resolution("512"), parse_resolution("512x1024")) == ((512, 512), (512, 1024))
    for resolution in ((32, 32), (64, 96)):
        assert parse_resolution(str(pixels(resolution))) == resolution


def test_a_table_is_of_one_head() -> None:
    plain = load_space("mnasnet-imagenet")
    heads = [under_head(plain, h, c, s) for h in ("lraspp", "raspp") for c in (2, 3) for s in (8, 16)]
    assert len({space_id(s) for s in (plain, *heads)}) == 9


def test_every_head_of_the_search_goes_on_the_default_space() -> None:
    plain = load_space("mnasnet-imagenet")
    for head in TASKS["segment"].search_heads:
        space = under_head(plain, head, 5)
        genome = tuple(int(v) for v in space.sample(np.random.default_rng(0), 1)[0])
        assert type(space.deployed(genome).head) is type(with_head(plain.spec(genome), head, 5).head)
        assert all(layer_ms(x.key) > 0 for x in lower(space.deployed(genome)))
