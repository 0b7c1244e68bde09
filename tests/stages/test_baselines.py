"""What stands beside the found network: MobileNetV3, random and published networks, and whether it is above them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mbv3.accuracy import imagenet, zoo
from mbv3.latency import load_profile
from mbv3.space import Limits, load_space, under_head
from mbv3.spec import load_spec
from mbv3.stages import Beside, baselines_at, compared, imagenet_judge, published_times, space_latency
from mbv3.tables import Latency

MS = 60.0


def test_the_best_published_network_within_the_time_stands_beside() -> None:
    space, latency = load_space("mnasnet-imagenet"), Latency(load_profile("pixel-1"))
    judge, cost = imagenet_judge(space), space_latency(space, latency)
    like = space.spec(tuple(0 for _ in space.sizes))
    beside = baselines_at(MS, like, latency, space, judge, cost, 100)
    public = beside[-1]
    best = published_times(latency, MS)[0]
    assert public.published == best.network and public.ms == pytest.approx(best.ms) and public.ms <= MS
    assert public.estimate == imagenet(best.network.spec())
    few = Limits(params=3_000_000)
    small = baselines_at(MS, like, latency, space, judge, cost, 100, limits=few)
    assert all(few.hold(b.spec) for b in small)
    assert small[-1].published is None or small[-1].published.params < public.published.params
    headed = under_head(load_space("mnasnet-imagenet"), "lraspp-torchvision", 19)
    assert all(b.published is None for b in baselines_at(
        300.0, like, Latency(load_profile("pixel-1"), None, headed.dress), headed, judge, cost, 10
    ))  # fmt: skip


def test_the_found_network_is_above_only_beyond_the_error_of_the_difference() -> None:
    large = load_spec("mobilenet_v3_large")
    beside = [
        Beside(n, 5.0, imagenet(load_spec(n)), load_spec(n)) for n in ("mobilenet_v3_small", "mobilenet_v3_large@0.75")
    ]
    clear = compared(large, imagenet(large), beside)
    assert clear.best is beside[1] and clear.by is not None and clear.by.above and clear.text == "" == "".join(
        b.name for b in clear.handed
    )  # fmt: skip
    near = replace(beside[1], name="twin", spec=large, estimate=imagenet(large))
    doubt = compared(large, imagenet(large), [*beside, near])
    assert doubt.handed == (near,) and "twin, 5 ms, is predicted" in doubt.text
    assert "the difference of 0.0 points is not above its error of" in doubt.text
    assert compared(large, imagenet(large), []).text == ""


def test_better_published_weights_are_named_with_their_recipe() -> None:
    small = load_spec("mobilenet_v3_small")
    best = max(zoo(), key=lambda p: p.top1)
    beside = [Beside(best.name, 5.0, imagenet(best.spec()), best.spec(), best)]
    verdict = compared(small, imagenet(small), beside)
    assert verdict.handed == (beside[0],)  # once
    assert f"can be downloaded with {best.top1:.1f} % (recipe {best.recipe})" in verdict.text
    weak = min(zoo(), key=lambda p: p.top1)
    large = load_spec("mobilenet_v3_large@1.25")
    beside = [Beside(weak.name, 5.0, imagenet(weak.spec()), weak.spec(), weak)]
    assert np.isfinite(compared(large, imagenet(large), beside).by.error)  # type: ignore[union-attr]
    assert "downloaded" not in compared(large, imagenet(large), beside).text
