"""How well weights know photos: a linear probe of their features, and the recipe that follows from it."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.data import ImageSet, normalise
from mbv3.events import Note
from mbv3.export import read_any_weights
from mbv3.nn import build
from mbv3.spec import load_spec, with_head
from mbv3.stages import Images, Memory, familiar, far_recipe, probe_loss
from mbv3.stages.familiar import UNLIKE, fine_tuned_by
from mbv3.training import FEW, RECIPES, recalibrate, save_checkpoint
from tests.drawn import drawn_images

SMALL = replace(load_spec("mobilenet_v3_small"), resolution=(32, 32))
DRAWN = with_head(SMALL, SMALL.head, 8)


def photos_of(archive: Path, folder: str, classes: int, each: int, px: int) -> ImageSet:
    """The first photos of some classes of an archive of class folders."""
    seen: Counter[str] = Counter()
    pixels, labels = [], []
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            *above, name, _ = ("", "", *Path(member.name).parts)
            if not member.isfile() or above[-1] != folder or seen[name] == each:
                continue
            if name not in seen and len(seen) == classes:
                break
            seen[name] += 1
            file = tar.extractfile(member)
            assert file is not None
            with Image.open(io.BytesIO(file.read())) as image:
                pixels.append(np.asarray(image.convert("RGB").resize((px, px), Image.Resampling.BILINEAR)))
            labels.append(list(seen).index(name))
            if len(seen) == classes and min(seen.values()) == each:
                break
    return ImageSet(np.stack(pixels), np.array(labels, np.int64), tuple(seen), "")


def test_imagenet_features_know_caltech_and_not_cifar(data: Path) -> None:
    """On both sides of the threshold with room, at the sizes that users train at and few photos."""
    for archive, folder, classes, px, known in (
        ("caltech101-128.tar.xz", "test", 12, 128, True),
        ("cifar10-jpeg.tar.xz", "train", 10, 64, False),
    ):
        photos = photos_of(data / archive, folder, classes, 30, px)
        assert len(photos.classes) == classes and len(photos) > 15 * classes
        spec = with_head(replace(SMALL, resolution=(px, px)), SMALL.head, classes)
        weights = read_any_weights(data / "pretrained" / "mobilenet_v3_small_imagenet.pth", spec).state
        loss = probe_loss(spec, weights, photos)
        assert loss < 0.75 * UNLIKE if known else loss > 1.25 * UNLIKE


def test_photos_that_are_told_apart_keep_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random features tell light from dark; of features that are all alike nothing is learned, which is chance."""
    photos, net = drawn_images(FEW, 16, 0), build(DRAWN, 0)
    recalibrate(net, [normalise(np.asarray(photos.images[:200]), DRAWN.resolution)])
    weights = net.state_dict()
    assert probe_loss(DRAWN, weights, photos) < UNLIKE
    assert far_recipe("finetune", DRAWN, weights, photos) == ("finetune", "")
    blind = {k: v * 0 if k.startswith("stem.conv") else v for k, v in weights.items()}
    assert probe_loss(DRAWN, blind, photos) == pytest.approx(1.0, abs=0.03)
    name, why = far_recipe("finetune", DRAWN, blind, photos)
    assert name == "finetune-far" and "of chance's loss" in why
    few = photos.take(np.arange(FEW - 1))
    monkeypatch.setattr(familiar, "probe_loss", lambda *_: pytest.fail("not asked: few photos move layers little"))
    assert far_recipe("finetune", DRAWN, blind, few) == ("finetune", "")
    assert far_recipe("finetune-detect", DRAWN, blind, photos) == ("finetune-detect", "")


def test_many_classes_are_drawn_with_photos_enough_of_each() -> None:
    """A few photos of each of a thousand classes would be learned by no features, however good."""
    labels = np.repeat(np.arange(1000), np.tile([19, 21], 500))
    photos = ImageSet(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, tuple(map(str, range(1000))), "")
    learned, held = familiar._drawn(photos)
    assert (len(learned), len(held)) == (800, 200)
    for part, each in ((learned, 16), (held, 4)):
        assert np.unique(np.bincount(part.labels)).tolist() == [0, each] and len(np.unique(part.labels)) == 50
    assert set(held.labels) == set(learned.labels) and all(label % 2 for label in held.labels)


def noise(*count: int) -> ImageSet:
    """Pictures that tell nothing of their class, so many of each."""
    labels = np.repeat(np.arange(len(count)), count)
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 16, 16, 3)).astype(np.uint8)
    return ImageSet(pixels, labels, tuple(map(str, range(len(count)))), "")


def test_what_tells_nothing_is_chance_whatever_the_classes_shares() -> None:
    """Knowing which class is frequent is not knowing photos."""
    net = build(with_head(SMALL, SMALL.head, 2), 0)
    for rare in (60, 1500):
        assert probe_loss(net.spec, net.state_dict(), noise(3000, rare)) > 0.95


def test_a_class_of_few_photos_is_left_out() -> None:
    spec = with_head(SMALL, SMALL.head, 2)
    weights = build(spec, 0).state_dict()
    assert np.isnan(probe_loss(spec, weights, noise(FEW, 3)))
    assert far_recipe("finetune", spec, weights, noise(FEW, 3)) == ("finetune", "")


def noted(images: Images, keep: Memory) -> tuple[str, str]:
    """The recipe that is decided, and what is said of it."""
    events, said = fine_tuned_by(images, DRAWN, build(DRAWN, 0).state_dict(), keep), []
    while True:
        try:
            said.append(next(events))
        except StopIteration as end:
            assert end.value.train is images.train
            return end.value.work.finetune, " ".join(n.text for n in said if isinstance(n, Note))


def test_it_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(familiar, "probe_loss", lambda *_: asked.append(1.5) or 1.5)
    images, keep = Images(drawn_images(FEW, 16, 0), drawn_images(50, 16, 1), (32, 32)), Memory()
    name, said = noted(images, keep)
    assert name == "finetune-far" and "recipe finetune-far: the features of the weights tell" in said
    assert noted(images, keep)[0] == "finetune-far" and asked == [1.5]


def test_what_has_begun_goes_on_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of an older version, or of another run: whatever the probe would say now."""
    monkeypatch.setattr(familiar, "probe_loss", lambda *_: pytest.fail("asked"))

    class Kept(Memory):
        def file(self, name: str) -> Path:
            return tmp_path / name

    images = Images(drawn_images(FEW, 16, 0), drawn_images(50, 16, 1), (32, 32))
    for recipe in ("finetune", "finetune-far"):
        save_checkpoint(tmp_path / "road-start.safetensors", {}, {"recipe": {"body_lr": RECIPES[recipe].body_lr}})
        assert noted(images, Kept())[0] == recipe
    save_checkpoint(tmp_path / "road-start.safetensors", {}, {})  # one that knows no recipe
    assert noted(images, Kept())[0] == "finetune"
