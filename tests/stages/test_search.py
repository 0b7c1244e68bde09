"""The search stage over again: what it learns from the trials that an interrupted one left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mbv3.events import result
from mbv3.search.controller import Controller
from mbv3.space import load_space
from mbv3.stages import Memory, imagenet_judge, search


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
