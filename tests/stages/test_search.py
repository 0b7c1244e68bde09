"""The search stage over again: what it learns from the trials that an interrupted one left."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from mbv3.events import result
from mbv3.search.controller import Controller
from mbv3.space import Genome, load_space
from mbv3.stages import Budget, Memory, affordable, imagenet_judge, search


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_resumed_controller_learns_on_one_thread_too(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Controller, "update", lambda *args: seen.append(torch.get_num_threads()))
    space, keep = load_space("mnasnet-imagenet"), Memory()
    for trials in (100, 200):
        keep.values["trials"] = trials
        result(search(space, imagenet_judge(space), lambda _: 50.0, 60.0, sampler="rnn", reward="tunas", keep=keep))
    assert len(seen) > 2 and set(seen) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("score_s", "trials"), [(0.01, 400), (0.5, 72), (100.0, 16)])
def test_as_many_are_scored_as_their_part_of_the_time_allows(
    score_s: float, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve minutes 36 seconds are for scores; some are needed in any case, and more than 400 bring nothing."""
    now = [0.0]

    class Slow:
        kind = "supernet"

        def accuracy(self, genome: Genome) -> float:
            now[0] += score_s
            return 1.0

    monkeypatch.setattr(import_module("mbv3.stages.search"), "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert affordable(load_space("mobilenetv3"), Slow(), Budget(12.0)) == trials  # type: ignore[arg-type]
