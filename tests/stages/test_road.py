"""Public weights and photos to a target: sizes, slimming, photos in three sets, teaching, dropping, doing no harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.data import ImageSet, normalise
from mbv3.errors import BadInput, Unreachable
from mbv3.events import result
from mbv3.nn import build
from mbv3.spec import ArchSpec, count, load_spec, with_head
from mbv3.stages import Effort, Images, Memory, Sizes, choose_sizes, read_photos, road
from mbv3.stages.contenders import Contender
from mbv3.stages.rounds import winner
from mbv3.stages.shrink_tune import Tuner
from mbv3.stages.slim import cut_by_l1, narrower, slimmed
from mbv3.stages.tune import Taught, Tuned, fit_of, taught_by, taught_objective, trained, tune
from mbv3.training import ClassAnswers


class Madds:
    """A device whose ms are millions of multiply-adds; nothing is at hand to be timed."""

    device = None
    correction = 1.0
    fine = 0
    layers: dict[object, object] = {}  # noqa: RUF012 (no row is measured)

    @property
    def table(self) -> Madds:
        return self

    def save(self, path: Path) -> None:
        """A table that needs no file."""

    def dress(self, spec: ArchSpec) -> ArchSpec:
        return spec

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return [count(s).madds / 1e6 for s in specs]

    def measure(self, spec: ArchSpec, parts: int) -> None:
        return None

    def verdict(self, spec: ArchSpec, target_ms: float) -> None:
        return None


class Kept(Memory):
    """A `Keep` with binary files."""

    path: Path

    def file(self, name: str) -> Path:
        return self.path / name


def kept(path: Path) -> Kept:
    keep = Kept()
    keep.path = path
    return keep


def bright(n: int, seed: int, side: int = 32) -> ImageSet:
    """Pictures of two classes: the bright patch is red or green."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 60, (n, side, side, 3)).astype(np.uint8)
    for i, label in enumerate(labels):
        y, x = rng.integers(0, side // 2, 2)
        pixels[i, y : y + side // 2, x : x + side // 2, label] += 180
    return ImageSet(pixels, labels.astype(np.int64), ("red", "green"), "0" * 64)


@pytest.fixture
def images() -> Images:
    return Images(bright(48, 0), bright(40, 1), (32, 32))


@pytest.fixture
def start(tiny_spec: ArchSpec) -> ArchSpec:
    spec = with_head(tiny_spec, tiny_spec.head, 2)
    return replace(spec, rows=tuple(replace(r, exp=32, out=16) for r in spec.rows))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_sizes_around_a_target() -> None:
    spec, latency = load_spec("mobilenet_v3_small"), Madds()
    full = latency([replace(spec, resolution=(128, 128))])[0]
    sizes = choose_sizes(spec, 0.5 * full, 128, latency)
    assert sizes.start.resolution == (128, 128)  # the photos have no more
    ms = latency(sizes.lower)
    assert ms[0] > 0.5 * full >= ms[1] > ms[2]  # the next larger one is measured again, it may be within
    over = latency(sizes.cut)
    assert sorted(over) == over and over[0] > 0.5 * full and over[-1] <= 3.2 * 0.5 * full
    assert all(s.resolution[0] % 16 == 0 for s in sizes.cut) and 2 <= len(sizes.cut) <= 4


def test_small_photos_are_enlarged() -> None:
    """Up to a last map of four places a side: at their own size nothing would be left of them."""
    spec = load_spec("mobilenet_v3_small")
    for side, top in ((16, 128), (32, 128), (100, 128), (128, 160), (1000, 272)):
        assert max(min(s.resolution) for s in choose_sizes(spec, 1e6, side, Madds()).all) == top
    assert choose_sizes(spec, 5.0, 32, Madds()).start.resolution == (128, 128)
    small = replace(spec, resolution=(96, 96))  # a network that was made for less is enlarged by its own measure
    assert choose_sizes(small, 1e6, 32, Madds()).start.resolution == (96, 96)


def test_large_inputs_leave_the_uncut_network_no_less_of_the_target() -> None:
    """Few sizes are timed of a large range, and then those between the two around the target."""
    spec, latency, asked = replace(load_spec("mobilenet_v3_small"), resolution=(480, 640)), Madds(), []

    def counted(specs: Sequence[ArchSpec]) -> list[float]:
        asked.extend(specs)
        return latency(specs)

    for target in (20.0, 60.0, 100.0):
        asked.clear()
        above, within, *_ = choose_sizes(spec, target, 480, counted, dense=True).lower
        assert min(above.resolution) - min(within.resolution) == 8 and len(asked) < 25
        assert latency([within])[0] <= target < latency([above])[0]


def test_sizes_where_the_start_meets_the_target() -> None:
    spec, latency = load_spec("mobilenet_v3_small"), Madds()
    sizes = choose_sizes(spec, 1e6, 300, latency)
    assert sizes.cut == ()
    assert sizes.lower[0].resolution == (272, 272)  # raised as far as 1.25 of the network's own size, in steps of 8


def test_sizes_keep_the_shape_and_a_pinned_size() -> None:
    wide = replace(load_spec("mobilenet_v3_small"), resolution=(128, 256))
    assert {s.resolution[1] / s.resolution[0] for s in choose_sizes(wide, 5.0, 128, Madds()).all} == {2.0}
    pinned = choose_sizes(wide, 5.0, 128, Madds(), pinned=(96, 96))
    assert {s.resolution for s in pinned.all} == {(96, 96)}


def test_a_target_that_nothing_reaches() -> None:
    with pytest.raises(Unreachable, match=r"cannot be met.*32 px.*a smaller network may reach it") as e:
        choose_sizes(load_spec("mobilenet_v3_small"), 0.01, 128, Madds())
    assert 0.01 < e.value.smallest_ms < e.value.largest_ms


# ---- slimming ------------------------------------------------------------------------------------------------------


def test_slimming_is_the_widest_within_the_target() -> None:
    spec, latency = load_spec("mobilenet_v2"), Madds()
    full = latency([spec])[0]
    small = slimmed(spec, latency, 0.5 * full)
    assert small is not None
    assert 0.45 * full < latency([small])[0] <= 0.5 * full
    assert narrower(spec, 1.0) == spec
    assert slimmed(spec, latency, 1e-6) is None


def test_l1_keeps_the_filters_of_largest_sum(start: ArchSpec) -> None:
    state = build(start, 0).state_dict()
    small = narrower(start, 0.5)
    mine = cut_by_l1(state, start, small)
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in build(small, 0).state_dict().items()}
    # a filter that L1 and L2 rank differently is kept by L1
    state["tail.conv.weight"].zero_()
    state["tail.conv.weight"][0, :4] = 1.0  # L1 4, L2 2
    state["tail.conv.weight"][1, 0] = 3.0  # L1 3, L2 3
    shorter = replace(start, tail=replace(start.tail, out=1))  # type: ignore[type-var]
    assert torch.equal(cut_by_l1(state, start, shorter)["tail.conv.weight"][0], state["tail.conv.weight"][0])


# ---- photos --------------------------------------------------------------------------------------------------------


def photos(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, n in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def pictures(data: ImageSet) -> set[bytes]:
    return {np.asarray(data.images[np.array([i])]).tobytes() for i in range(len(data))}


def test_photos_are_three_disjoint_sets(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", {"a": 30, "b": 20})
    found = result(read_photos(folder, (24, 24), keep=kept(tmp_path)))
    sets = [pictures(s) for s in (found.images.train, found.images.held_out, found.report)]
    assert [len(s) for s in sets] == [42, 3, 5]
    assert len(sets[0] | sets[1] | sets[2]) == 50
    assert found.reported == "held-out"
    again = result(read_photos(folder, (24, 24), keep=kept(tmp_path)))  # from the stored pixels
    assert again.sha256 == found.sha256 and pictures(again.report) == sets[2]


def test_test_images_are_only_reported_on(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", {"a": 10, "b": 10})
    test = photos(tmp_path / "test", {"a": 3, "b": 4}, seed=1)
    found = result(read_photos(folder, (24, 24), test=test))
    assert (len(found.images.train), len(found.images.held_out), len(found.report)) == (18, 2, 7)
    assert found.reported == "test"


def test_a_class_with_too_few_photos(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="only one image in class folder"):
        result(read_photos(photos(tmp_path / "one", {"a": 9, "b": 1}), (24, 24)))
    with pytest.raises(BadInput, match=r"too few images in class folder.*b: one each is learned from, chosen on"):
        result(read_photos(photos(tmp_path / "two", {"a": 9, "b": 2}), (24, 24)))


# ---- learning ------------------------------------------------------------------------------------------------------


def test_a_teachers_answers_are_learned(start: ArchSpec, images: Images) -> None:
    """The targets are the teacher's logits of the images of the batch; to answer as it does costs nothing."""
    state = build(start, 3).state_dict()
    logits = taught_by(start, state, images.train)
    data = Taught(images.train, logits)
    index = np.array([5, 2, 40])
    _, (labels, wanted) = data.batch(index, (32, 32), "none", np.random.default_rng(0))
    assert len(data) == 48 and labels.tolist() == [1, 0, 0] and torch.equal(wanted, logits[[5, 2, 40]])
    net = build(start, 3).eval()
    x = normalise(np.asarray(images.train.images[index]), (32, 32))
    with torch.inference_mode():
        assert torch.allclose(wanted, (net(x) + net(x.flip(3))) / 2, atol=1e-5)
    recipe = replace(fit_of(images, start, 1), distill=1.0, temperature=2.0)
    assert float(taught_objective(recipe)(wanted, (labels, wanted), x)) == pytest.approx(0.0, abs=1e-6)
    other = taught_objective(recipe)(wanted.flip(1) + torch.tensor([1.0, 0.0]), (labels, wanted), x)
    p, q = (wanted / 2).softmax(1), ((wanted.flip(1) + torch.tensor([1.0, 0.0])) / 2).softmax(1)
    assert float(other) == pytest.approx(4 * float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    plain = taught_objective(replace(recipe, distill=0.0, label_smoothing=0.0))(wanted, (labels, wanted), x)
    assert float(plain) == pytest.approx(float(torch.nn.functional.cross_entropy(wanted, labels)), rel=1e-5)


def test_a_cut_network_takes_new_statistics(start: ArchSpec, images: Images) -> None:
    assert fit_of(images, start, 5, new_head=True).head_first > 0
    larger = replace(start, resolution=(64, 64))
    held, cut = fit_of(images, larger, 5), fit_of(images, larger, 5, cut=True)
    assert (held.hold_norms, held.head_first, cut.hold_norms, cut.recalibrate > 0) == (True, 0.0, False, True)


def test_where_the_last_map_is_one_place_no_statistics_are_kept(images: Images) -> None:
    for side, held in ((64, True), (33, True), (32, False)):
        spec = replace(load_spec("mobilenet_v3_small"), resolution=(side, side))
        recipe = fit_of(images, spec, 5)
        assert (recipe.hold_norms, recipe.recalibrate > 0) == (held, not held)
        assert Tuner(images, 0).recipe(spec, 5).hold_norms == held  # NetAdapt's


def test_statistics_that_are_held_are_those_of_the_weights(start: ArchSpec) -> None:
    """At another resolution few images give worse ones; a cut network has to have new ones."""
    photos = Images(bright(48, 0, 64), bright(40, 1, 64), (64, 64))
    state = build(start, 0).state_dict()
    larger = replace(start, resolution=(64, 64))
    norms = [k for k in state if k.endswith("running_mean") and not k.startswith("head.")]
    for cut in (False, True):
        tuned = result(tune("x", larger, state, photos, 2, cut=cut))
        assert all(torch.equal(tuned.state[k], state[k]) != cut for k in norms)


def test_what_was_learned_by_another_recipe_is_not_taken_up(start: ArchSpec, images: Images, tmp_path: Path) -> None:
    keep, recipe = kept(tmp_path), fit_of(images, start, 3)
    state = build(start, 0).state_dict()
    first = result(trained("x", start, state, images, recipe, keep=keep))
    again = result(trained("x", start, None, images, recipe, keep=keep))
    assert all(torch.equal(again.state[k], v) for k, v in first.state.items())
    with pytest.raises(BadInput, match=r"this training began with lr \S+, now 0.9; "):
        result(trained("x", start, state, images, replace(recipe, lr=0.9), keep=keep))


def test_pairs_of_answers() -> None:
    one = ClassAnswers(np.zeros(4), np.array([1, 1, 1, 0], bool))
    other = ClassAnswers(np.zeros(4), np.array([1, 1, 0, 0], bool))
    by, error = one.better_by(other)
    assert by == 25.0 and error == pytest.approx(100 * np.std([0, 0, 1, 0]) / 2)
    assert one.better_by(one) == (0.0, 0.0)


# ---- the road ------------------------------------------------------------------------------------------------------

EFFORT = Effort(start=40, cut=4, first=6, alike=12, last=12)


def walked(start: ArchSpec, images: Images, **more: Any) -> Any:
    latency = Madds()
    full = latency([start])[0]
    sizes = choose_sizes(start, 0.6 * full, 32, latency)
    state = build(start, 0).state_dict()
    return (
        0.6 * full,
        sizes,
        road(
            sizes,
            state,
            latency,
            images,
            bright(30, 2),
            0.6 * full,
            effort=EFFORT,
            **more,  # type: ignore[arg-type]
        ),
    )


def test_the_road_ends_within_the_target(start: ArchSpec, images: Images) -> None:
    target, sizes, events = walked(start, images)
    went = result(events)
    assert {"cut", "lower"} <= {x.contender.kind for x in went.alike}
    assert all(Madds()([x.contender.spec])[0] <= target for x in went.alike)
    lower = next(x.contender for x in went.alike if x.contender.kind == "lower")
    assert lower.spec.rows == start.rows and lower.spec.resolution < sizes.start.resolution
    assert went.found is went.alike[0].contender
    assert len(went.reported) == 30
    best = max(x.tuned.chosen_on.score for x in went.alike)
    assert went.alike[0].tuned.chosen_on.score == best
    assert bool(went.doubt) == (went.found.kind != "cut")


def test_a_walked_road_is_not_walked_again(
    start: ArchSpec, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result(walked(start, images, keep=kept(tmp_path))[2])
    module = import_module("mbv3.stages.tune")  # the room's own `tune` is the function

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "fit", never)
    again = result(walked(start, images, keep=kept(tmp_path))[2])
    assert all(torch.equal(v, again.tuned.state[k]) for k, v in first.tuned.state.items())
    assert again.reported.score == first.reported.score


def test_a_start_that_meets_the_target_is_delivered(start: ArchSpec, images: Images) -> None:
    sizes = Sizes(start, (start,), ())
    went = result(road(sizes, build(start, 0).state_dict(), Madds(), images, bright(30, 2), 1e6, effort=EFFORT))  # type: ignore[arg-type]
    assert (went.found.kind, went.found.spec, went.doubt) == ("lower", start, "")


def tuned_as(spec: ArchSpec, right: int, loss: float | None = None, others: int = 0) -> Tuned:
    """Right on so many of 100 images, which begin with number `others`."""
    each = np.full(100, 1.0 - right / 100 if loss is None else loss)
    return Tuned(spec, {}, 1, ClassAnswers(each, np.roll(np.arange(100) < right, others)))


def test_a_baseline_that_is_better_is_delivered(start: ArchSpec) -> None:
    cut = Contender("cut-32", "cut", start, {}, 1.0, 0.0)
    lower = Contender("lower", "lower", start, {}, 1.0, 0.0)
    (found, _), doubt = winner([(cut, tuned_as(start, 80)), (lower, tuned_as(start, 84))])
    assert found is lower
    assert "better than the network that was cut (+4.0 +- 2.0 points) on the choosing images, trained alike: i" in doubt
    for right, by in ((80, "+0.0"), (82, "-2.0")):
        rival = tuned_as(start, 80, loss=0.1, others=20)
        (found, _), doubt = winner([(cut, tuned_as(start, right)), (lower, rival)])
        assert found is lower
        assert f"is level with the network that was cut ({by} +- 6." in doubt
        assert "on the choosing images, trained alike, and has a lower loss: it is what is delivered" in doubt
    (found, _), doubt = winner([(lower, tuned_as(start, 82, loss=0.3, others=20)), (cut, tuned_as(start, 80))])
    assert (found, doubt) == (cut, "")  # within the error, and its loss is lower
    (found, _), _ = winner([(lower, tuned_as(start, 95, loss=0.3, others=20)), (cut, tuned_as(start, 80))])
    assert found is lower
    (found, _), doubt = winner([(lower, tuned_as(start, 80)), (cut, tuned_as(start, 84))])
    assert (found, doubt) == (cut, "")
