"""`mbv3 train` from end to end on small images: every task, resume, what goes wrong."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.errors import BadInput
from mbv3.events import Done, Note
from mbv3.export import FRAMEWORKS
from mbv3.nn import build
from mbv3.pipeline import train
from mbv3.pipeline.train_init import initial_weights
from mbv3.pipeline.train_log import logged
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, dump_spec, load_spec, parse_spec, with_head
from mbv3.training import Diverged, adopt, load_checkpoint, read_weights, save_weights

SPEC = ArchSpec(
    name="tiny",
    resolution=(32, 32),
    stem=Conv(k=3, out=8, nl="HS", s=2),
    rows=tuple(MBConv(k=3, exp=16, out=8, se=8, nl="RE", s=2) for _ in range(4)),
    tail=Conv(k=1, out=16, nl="HS"),
    head=Classify(features=16, nl="HS", dropout=0.2, classes=7),
)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blob(rng: np.random.Generator, kind: int, side: int = 32) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A picture of one bright rectangle, red or green; its mask; its box."""
    w, h = rng.integers(10, 20, 2)
    x, y = rng.integers(0, side - w), rng.integers(0, side - h)
    image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
    image[y : y + h, x : x + w, kind] += 180
    mask = np.zeros((side, side), np.uint8)
    mask[y : y + h, x : x + w] = 1 + kind
    return image, mask, [int(v) for v in (x, y, x + w, y + h)]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("test", 8)):
        for kind, name in enumerate(("green", "red")):
            folder = tmp_path / "classes" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(blob(rng, 1 - kind)[0]).save(folder / f"{i}.png")
    return tmp_path / "classes"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", 16), ("val", 4), ("test", 6)):
        for sub in ("images", "masks"):
            (tmp_path / "masked" / part / sub).mkdir(parents=True)
        for i in range(n):
            image, mask, _ = blob(rng, i % 2)
            Image.fromarray(image).save(tmp_path / f"masked/{part}/images/{i}.png")
            Image.fromarray(mask).save(tmp_path / f"masked/{part}/masks/{i}.png")
    (tmp_path / "masked/classes.txt").write_text("ground\nred\ngreen\n")
    return tmp_path / "masked"


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    base = tmp_path / "boxed"
    for part, n in (("train", 16), ("val", 4)):
        (base / part).mkdir(parents=True)
        document: dict[str, list[Any]] = {
            "images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        }  # fmt: skip
        for i in range(n):
            image, _, (x0, y0, x1, y1) = blob(rng, i % 2)
            Image.fromarray(image).save(base / part / f"{i}.png")
            document["images"].append({"id": i, "file_name": f"{i}.png"})
            document["annotations"].append(
                {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            )
        (base / part / "_annotations.coco.json").write_text(json.dumps(document))
    return base


def run(spec: ArchSpec | None = SPEC, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """(run.json, everything said) of a training."""
    events = list(train(spec, **options))
    assert isinstance(events[-1], Done)
    return dict(events[-1].data), [e.text for e in events if isinstance(e, Note)]


def quick(data: Path, out: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    return run(data=str(data), out=out, **{"epochs": 2.0, "batch": 8, **options})


def test_classify(classes: Path, tmp_path: Path) -> None:
    record, said = quick(classes, tmp_path / "o", epochs=25.0, optimizer="adamw", lr=5e-3, ema=0.9)
    assert record["top1"] > 80 and record["metrics"].keys() == {"top1"}  # two classes have no top 5
    assert (record["n"], record["judged_on"], record["status"], record["exit"]) == (16, "test", "done", 0)
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {
        ".lock", "run.json", "network.yaml", "weights.safetensors", "log.csv", "log.txt", "curve.png",
        "predictions.png",
    }  # fmt: skip
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert spec.head.classes == 2
    build(spec).load_state_dict(read_weights(tmp_path / "o/weights.safetensors"))
    for name in ("curve.png", "predictions.png"):
        with Image.open(tmp_path / "o" / name) as picture:
            assert min(picture.size) > 100
    text = (tmp_path / "o/log.txt").read_text()
    assert "epoch 25 of 25: loss " in text and "waiting for images" in text and "min left" in text
    assert len((tmp_path / "o/log.csv").read_text().splitlines()) == 26
    assert any(t.startswith("46 images of 2 classes, 2 held out, 16 for the test") for t in said)


def test_segment(masks: Path, tmp_path: Path) -> None:
    record, _ = quick(masks, tmp_path / "o", task="segment", epochs=25.0, lr=0.01, output_stride=8)
    assert record["classes"] == ["ground", "red", "green"] and record["metrics"].keys() == {"miou", "pixels"}
    assert record["pixels"] > 70 and record["n"] == 6
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert type(spec.head).__name__ == "LRASPP" and spec.head.classes == 3
    # the network that came out goes in again, for its own task only
    again, said = run(spec, data=str(masks), out=tmp_path / "p", task="segment", epochs=1.0, batch=8,
                      init=str(tmp_path / "o/weights.safetensors"), lr=1e-6)  # fmt: skip
    assert any(t.startswith("weights of ") and "new:" not in t for t in said)
    assert again["pixels"] == pytest.approx(record["pixels"], abs=8)
    with pytest.raises(BadInput, match=r"--task classify: tiny has a head for segment; give that task"):
        run(spec, data=str(masks), out=tmp_path / "q")


def test_detect(boxes: Path, tmp_path: Path) -> None:
    record, said = quick(boxes, tmp_path / "o", task="detect", epochs=3.0)
    assert record["metrics"].keys() == {"map50", "map"} and record["classes"] == ["green", "red"]
    assert 0 <= record["map"] <= record["map50"] <= 100 and record["judged_on"] == "held-out"
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert spec.head.classes == 3  # and the background
    assert any("16 images of 2 classes, 4 held out" in t for t in said)


def test_an_auxiliary_head_is_trained_too(masks: Path, tmp_path: Path) -> None:
    record, _ = quick(masks, tmp_path / "o", task="segment", head="fcn", output_stride=16)
    state = read_weights(tmp_path / "o/weights.safetensors")
    fresh = build(parse_spec((tmp_path / "o/network.yaml").read_text(), "n"), 0).state_dict()
    moved = [k for k in state if k.startswith("aux.") and k.endswith("weight") and not torch.equal(state[k], fresh[k])]
    assert moved and record["status"] == "done"


def test_distillation_and_init(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(classes, tmp_path / "teacher")
    spec, weights = tmp_path / "teacher/network.yaml", tmp_path / "teacher/weights.safetensors"
    quick(classes, tmp_path / "plain")
    quick(classes, tmp_path / "taught", teacher=str(spec), teacher_weights=str(weights))
    a, b = (read_weights(tmp_path / n / "weights.safetensors") for n in ("plain", "taught"))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    other = tmp_path / "five.safetensors"
    save_weights(other, build(with_head(SPEC, SPEC.head, 5), 1).state_dict())
    _, said = quick(classes, tmp_path / "init", init=str(other))
    assert any("new: the head (2 tensors)" in t for t in said)
    wide = replace(SPEC, stem=replace(SPEC.stem, out=16))
    save_weights(other, build(wide, 1).state_dict())
    with monkeypatch.context() as m:
        m.setattr("mbv3.pipeline.job.store_pixels", lambda *_, **__: pytest.fail("decoded first"))
        message = r"weights of another network(.|\n)*of another shape: stem.conv.weight"
        with pytest.raises(BadInput, match=message):
            quick(classes, tmp_path / "wrong", init=str(other))
        with pytest.raises(BadInput, match=message):
            quick(classes, tmp_path / "t3", teacher=str(spec), teacher_weights=str(other))
    with pytest.raises(BadInput, match=r"--teacher needs its weights"):
        quick(classes, tmp_path / "t2", teacher=str(spec))


def test_half_precision(classes: Path, tmp_path: Path) -> None:
    record, _ = quick(classes, tmp_path / "o", precision="bf16")
    assert record["recipe"]["precision"] == "bf16" and record["status"] == "done"
    weights = read_weights(tmp_path / "o/weights.safetensors")
    assert {v.dtype for k, v in weights.items() if "num_batches" not in k} == {torch.float32}


# ---- resume --------------------------------------------------------------------------------------------------

DRIVER = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored, in the background
import torch; torch.set_num_threads(1)
from mbv3.training import loop
loop.fit.__kwdefaults__["every_s"] = 0.0
die = int(sys.argv.pop(1))
step, calls = loop.one_step, 0
def counted(*a, **k):
    global calls
    calls += 1
    if calls == die:
        os.kill(os.getpid(), getattr(signal, os.environ["FATE"]))
    return step(*a, **k)
loop.one_step = counted
from mbv3.cli import main
sys.exit(main())
"""


def command(*args: object, die: int = 0, fate: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(die), "train", *map(str, args)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "FATE": fate},
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(dump_spec(SPEC))
    return tmp_path / "tiny.yaml"


def test_killed_and_resumed_gives_the_same_bytes(classes: Path, file: Path, tmp_path: Path) -> None:
    options = (file, "--data", classes, "--epochs", 4, "--batch", 8, "--dropout", 0.5)
    whole = command(*options, "--out", tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["status"] == "done"
    killed = command(*options, "--out", tmp_path / "o", die=9)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "o/checkpoint.safetensors").exists()
    stopped = command("--resume", tmp_path / "o", die=6, fate="SIGINT")
    assert stopped.returncode == 4, stopped.stderr
    assert f"Go on with: mbv3 train --resume {tmp_path / 'o'}" in stopped.stderr
    done = command("--resume", tmp_path / "o", "--json")
    assert done.returncode == 0 and "goes on at step 13 of 20" in done.stderr
    for column in (1, 2):  # step and loss; what was told is whole and the same
        logs = [[row.split(",")[column] for row in (tmp_path / n / "log.csv").read_text().splitlines()]
                for n in ("whole", "o")]  # fmt: skip
        assert logs[0] == logs[1] and len(logs[0]) == 5
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "o"))
    assert a == b
    again = command("--resume", tmp_path / "o", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["top1"] == json.loads(whole.stdout)["top1"]
    wrong = command(file, "--resume", tmp_path / "o", "--lr", 1)
    assert wrong.returncode == 2 and "leave out SPEC, --lr" in wrong.stderr


def test_two_processes_under_torchrun(classes: Path, file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mbv3", "train",
         str(file), "--data", str(classes), "--epochs", "2", "--batch", "8", "--out", str(tmp_path / "o"), "--json"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)  # one of the two speaks
    assert record["processes"] == 2 and record["recipe"]["epoch_steps"] == 46 // 16
    assert record["recipe"]["lr"] == pytest.approx(0.2 * 16 / 128)
    assert done.stderr.count("epoch 2 of 2") == 1


# ---- what goes wrong -----------------------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_state(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mbv3.training import loop

    with pytest.raises(Diverged, match=r"nothing was learned before it; try a lower --lr"):
        quick(classes, tmp_path / "first", lr=1e30, recipe="paper")
    real, calls = loop.one_step, 0

    def broken(*a: Any, **k: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Diverged("training: the loss became nan at step 8, with a learning rate of 1")
        return real(*a, **k)

    monkeypatch.setattr(loop, "one_step", broken)
    with pytest.raises(Diverged, match=r"nan at step 8.*the state after step 5 is kept as .*--init and a lower --lr"):
        quick(classes, tmp_path / "o", epochs=3.0)
    state = read_weights(tmp_path / "o/weights.safetensors")
    assert all(bool(v.isfinite().all()) for v in state.values())
    assert json.loads((tmp_path / "o/run.json").read_text())["status"] == "diverged"


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(BadInput, match=r"log.txt: cannot be written \(Is a directory\)"):
        list(logged(tmp_path, iter([Note("run", "something")])))


def test_a_full_disk_keeps_the_previous_checkpoint(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, calls = os.replace, 0

    def full(source: str, target: Any) -> None:
        nonlocal calls
        checkpoint = str(target).endswith("checkpoint.safetensors")
        calls += checkpoint
        if checkpoint and calls == 2:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        with pytest.raises(BadInput, match=r"checkpoint.safetensors: cannot be written \(No space left on device\)"):
            quick(classes, tmp_path / "o", epochs=4.0)
    found = load_checkpoint(tmp_path / "o/checkpoint.safetensors")
    assert found is not None and found[1]["step"] == 5
    begun = (tmp_path / "o/run.json").read_text()
    record = json.loads(begun)
    record["processes"], record["recipe"]["lr"] = 2, 0.5
    (tmp_path / "o/run.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"it began with lr 0.5, now 0.0125; processes 2, now 1; go on with it as it"):
        run(None, resume=tmp_path / "o")
    (tmp_path / "o/run.json").write_text(begun)
    looked_at = next((classes / "test/red").iterdir())
    image = looked_at.read_bytes()
    Image.new("RGB", (32, 32)).save(looked_at)
    with pytest.raises(BadInput, match=r"the images of .* are not those that this training began with"):
        run(None, resume=tmp_path / "o")
    looked_at.write_bytes(image)
    record, _ = run(None, resume=tmp_path / "o")
    quick(classes, tmp_path / "whole", epochs=4.0)
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "o"))
    assert a == b and record["status"] == "done"


@pytest.fixture
def spoil(classes: Path) -> Callable[[], list[str]]:
    def put() -> list[str]:
        folder = classes / "train" / "red"
        (folder / "zero.png").write_bytes(b"")
        (folder / "text.jpg").write_text("no image")
        (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
        huge = Image.new("L", (20, 20))
        huge.save(folder / "huge.png")
        data = bytearray((folder / "huge.png").read_bytes())
        data[16:24] = (30000).to_bytes(4, "big") * 2  # a header that claims 900 million pixels
        (folder / "huge.png").write_bytes(data)
        return ["zero.png", "text.jpg", "cut.png", "huge.png"]

    return put


def test_broken_images_are_listed_or_left_out(classes: Path, tmp_path: Path, spoil: Callable[[], list[str]]) -> None:
    Image.new("CMYK", (40, 30)).save(classes / "train/red/cmyk.jpg")
    Image.new("L", (30, 40)).save(classes / "train/red/grey.png")
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(classes / "train/red/deep.png")
    quick(classes, tmp_path / "odd", epochs=0.2)  # unusual, and as good as any
    names = spoil()
    with pytest.raises(BadInput) as e:
        quick(classes, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert "4 of " in str(e.value) and "--skip-broken" in str(e.value)
    assert all(n in str(e.value) for n in names)
    record, said = quick(classes, tmp_path / "p", skip_broken=True)
    assert any(t.startswith("4 of ") and "are left out" in t for t in said) and record["status"] == "done"


def test_masks_of_one_class_are_refused_and_absent_classes_told(masks: Path, tmp_path: Path) -> None:
    (masks / "classes.txt").write_text("ground\nred\ngreen\nblue\n")
    _, said = quick(masks, tmp_path / "o", task="segment", epochs=0.2)
    assert "no training mask holds class(es) blue" in said
    (masks / "classes.txt").unlink()
    for file in masks.glob("*/masks/*.png"):  # as most programs write two classes
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(BadInput, match=r"hold only class 0 beside 255, which is ignored: write the second class as 1"):
        quick(masks, tmp_path / "p", task="segment")
    for file in masks.glob("*/masks/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 254, 0).astype(np.uint8)).save(file)
    with pytest.raises(BadInput, match=r"holds images and masks, and no class folders; add --task segment"):
        quick(masks, tmp_path / "p")
    with pytest.raises(BadInput, match=r"class indices 0, 254, ... 254; number the classes 0, 1, 2"):
        quick(masks, tmp_path / "p", task="segment")


def test_a_part_to_score_on_may_have_one_image_of_a_class(classes: Path, tmp_path: Path) -> None:
    for file in sorted((classes / "test/red").iterdir())[1:]:
        file.unlink()
    record, _ = quick(classes, tmp_path / "o", epochs=0.2)
    assert record["n"] == 9


def test_options_that_cannot_be(classes: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"recipe": "magic"}, r"--recipe must be one of small-data"),
        ({"epochs": -1.0}, r"--epochs must be a number from 0.001"),
        ({"lr": float("nan")}, r"--lr must be a number"),
        ({"resolution": "0"}, r"--resolution must be a side or HEIGHTxWIDTH such as 512x1024"),
        ({"augment": "ssd"}, r"--augment ssd: for --task classify there are none, shift"),
        ({"recipe": "mmseg"}, r"--augment scale: for --task classify.*recipe mmseg may be meant for another task"),
        ({"task": "dance"}, r"--task must be one of classify, segment, detect"),
        ({"head": "lraspp"}, r"--head and --output-stride turn a classifier into"),
        ({"task": "detect", "output_stride": 16}, r"--output-stride is for --task segment"),
        ({"task": "detect", "label_smoothing": 0.1}, r"--label-smoothing: SSD's loss has none"),
        ({"distill": 0.3}, r"--distill needs a --teacher \(got 0.3\)"),
        ({"optimizer": "adamw"}, r"--optimizer: the rate of recipe small-data is for sgd; give --lr"),
    ):
        with pytest.raises(BadInput, match=message):
            quick(classes, tmp_path / "x", **options)
    with pytest.raises(BadInput, match=r"--data DIR is needed"):
        run(SPEC, data=None, out=tmp_path / "y")
    with pytest.raises(BadInput, match=r"SPEC is needed"):
        run(None, data=str(classes), out=tmp_path / "y")
    with pytest.raises(BadInput, match=r"tiny takes 1 channels; images are trained on with 3"):
        run(replace(SPEC, in_channels=1), data=str(classes), out=tmp_path / "y")
    flat = replace(SPEC, rows=SPEC.rows[:1])
    with pytest.raises(BadInput, match=r"--unstride 3: tiny has only 2 strides to take away"):
        run(flat, data=str(classes), out=tmp_path / "z", unstride=3)


def test_strides_are_taken_away_from_the_front(classes: Path, tmp_path: Path) -> None:
    _, said = quick(classes, tmp_path / "o", unstride=2, epochs=0.2)
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert [spec.stem.s, *(r.s for r in spec.rows)] == [1, 1, 2, 2, 2]
    assert any("last map 4x4" in t for t in said) and not any("--unstride" in t for t in said)
    _, said = quick(classes, tmp_path / "p", epochs=0.2)
    assert any("last map is 1x1: --unstride 1 or 2" in t for t in said)


def test_memory_does_not_grow_with_epochs(classes: Path, tmp_path: Path) -> None:
    def live() -> int:
        gc.collect()
        return sum(o.nbytes for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))

    told: dict[str, int] = {}
    for event in train(SPEC, data=str(classes), out=tmp_path / "o", epochs=30.0, batch=8, score_every=1):
        if isinstance(event, Note) and event.text.startswith(("epoch 3 ", "epoch 29 ")):
            told[event.text.split()[1]] = live()
    # less than the weights of one epoch, were they kept
    weights = sum(v.nbytes for v in read_weights(tmp_path / "o/weights.safetensors").values())
    assert told["29"] - told["3"] < weights < told["3"]


# ---- weights of others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_under_the_libraries_own_names(
    torchvision: Any, classes: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    torch.manual_seed(3)
    if kind == "torchvision":
        theirs = torchvision.models.mobilenet_v3_small(num_classes=12).state_dict()
    else:
        theirs = pytest.importorskip("timm").create_model("mobilenetv3_small_100", num_classes=12).state_dict()
    file = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save({"model": theirs, "epoch": 3}, file)
    else:
        save_weights(file, theirs)
    spec = load_spec("mobilenet_v3_small")
    for target in (replace(spec, head=replace(spec.head, classes=2)), with_head(spec, "lraspp", 3)):
        state, whose = initial_weights(file, target)
        net = build(target, 0)
        left = adopt(net, state, "theirs")
        assert whose == kind and left and all(k.startswith("head.") for k in left)
        stem = next(v for k, v in theirs.items() if v.dim() == 4)
        assert torch.equal(net.state_dict()["stem.conv.weight"], stem)
        moved = [k for k, v in net.state_dict().items() if k in state and torch.equal(v, state[k])]
        assert len(moved) > 0.9 * len([k for k in net.state_dict() if not k.startswith("head.")])
    if kind == "torchvision":  # the same answers, not only the same names
        same = replace(spec, head=replace(spec.head, classes=12))
        net, x = build(same, 0), torch.randn(2, 3, 64, 64)
        assert adopt(net, initial_weights(file, same)[0], "theirs") == []
        model = torchvision.models.mobilenet_v3_small(num_classes=12)
        model.load_state_dict(theirs)
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(x), model.eval()(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_weights_exported_for_timm_begin_another_task(tmp_path: Path, name: str, head: str) -> None:
    spec = load_spec(name)
    names, ours = FRAMEWORKS["timm"].names(spec), build(spec, 3).state_dict()
    theirs = {}
    for module, their in names.modules:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if (value := ours.get(f"{module}.{leaf}")) is not None:
                value = value[..., None, None] if module in names.as_conv and leaf == "weight" else value
                theirs[f"{their}.{leaf}"] = value.contiguous()
    save_weights(tmp_path / "timm.safetensors", theirs, bn_eps=str(spec.bn_eps))  # as our export says it
    target = with_head(spec, head, 4)
    state, whose = initial_weights(tmp_path / "timm.safetensors", target)
    net = build(target, 0)
    left = adopt(net, state, "theirs")
    assert whose == "timm" and all(k.startswith("head.") for k in left)
    body = [k for k in ours if not k.startswith("head.") and ours[k].is_floating_point()]
    assert body and all(torch.equal(net.state_dict()[k], ours[k]) for k in body)


def test_systems_of_others_begin_a_training_head_and_all(torchvision: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    save_weights(tmp_path / "t.safetensors", theirs.state_dict())
    spec = with_head(load_spec("lraspp_mobilenet_v3_large"), load_spec("lraspp_mobilenet_v3_large").head, 5)
    net = build(spec, 0)
    state, whose = initial_weights(tmp_path / "t.safetensors", spec)
    assert whose == "torchvision" and adopt(net, state, "t") == []
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), theirs.eval()(x)["out"], rtol=1e-3, atol=1e-4)
    # mmsegmentation's backbone has the names of mmpretrain; a head of other classes stays new
    mm = FRAMEWORKS["mmseg"].names(load_spec("lraspp_m-v3s-d8"))
    ours = build(load_spec("lraspp_m-v3s-d8"), 1).state_dict()
    back = dict(mm.modules)
    named = {f"{back[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in ours.items()}
    assert any(k.startswith("decode_head.") for k in named) and any(k.startswith("backbone.") for k in named)
    torch.save({"state_dict": named, "meta": {"epoch": 1}}, tmp_path / "mm.pth")
    target = with_head(load_spec("lraspp_m-v3s-d8"), load_spec("lraspp_m-v3s-d8").head, 3)
    net = build(target, 0)
    state, whose = initial_weights(tmp_path / "mm.pth", target)
    assert whose == "mmseg" and all("classifier" in k for k in adopt(net, state, "mm"))
    assert torch.equal(net.state_dict()["rows.3.project.conv.weight"], ours["rows.3.project.conv.weight"])


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_nothing_in_a_weights_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"stem.conv.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BadInput, match=r"evil.pth: holds more than tensors.*convert it to safetensors"):
        initial_weights(tmp_path / "evil.pth", SPEC)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadInput, match=r"list.pt: holds no state dict"):
        initial_weights(tmp_path / "list.pt", SPEC)
    (tmp_path / "none.pth").write_bytes(b"")
    with pytest.raises(BadInput, match=r"none.pth: holds more than tensors, or is none of torch's files"):
        initial_weights(tmp_path / "none.pth", SPEC)
    with pytest.raises(BadInput, match=r"gone.pth: no such weights file"):
        initial_weights(tmp_path / "gone.pth", SPEC)


# ---- the hub -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of the library, which hashes with dill
def test_a_hugging_face_data_set(classes: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["green", "red/dark", "red?dark"])}
    )
    parts = {}
    for part in ("train", "test"):
        files = sorted((classes / part).rglob("*.png"))
        rows = {"img": [str(f) for f in files], "fine": [int(f.parent.name == "red") for f in files]}
        if part == "test":
            rows["fine"][0] = -1  # as truth that is kept back is written
        # with a fingerprint of its own: the library would hash the table, which not every pair of its versions can
        table = datasets.table.InMemoryTable.from_pydict(rows)
        parts[part] = datasets.Dataset(table, fingerprint=part).cast(features)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    record, said = run(SPEC, data=f"hf:{tmp_path / 'saved'}", out=tmp_path / "o", epochs=1.0, batch=8)
    assert record["classes"] == ["0 green", "1 red_dark"] and record["n"] == 15
    assert "1 test images have no label and are left out" in said
    assert not (tmp_path / "o/images").exists() and any("46 images of 2 classes" in t for t in said)


def test_without_the_library_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"--data hf:beans: needs the library datasets: pip install"):
        run(SPEC, data="hf:beans", out=tmp_path / "o")
    with pytest.raises(BadInput, match=r"--data hf:NAME is for --task classify"):
        run(SPEC, data="hf:beans", task="detect", out=tmp_path / "o")
