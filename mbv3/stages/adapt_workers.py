"""Fine-tunings of a step's proposals in processes of one thread each, with the results of one process."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import torch

from mbv3.netadapt import Job, Tried, TuneMany
from mbv3.stages.adapt_tune import FineTune

__all__ = ["workers"]

_tune: FineTune | None = None  # of a worker


@contextmanager
def workers(tune: FineTune, count: int) -> Iterator[TuneMany]:
    """What fine-tunes many proposals at once in `count` processes, and gives them back in order.

    Every process has one thread, so that a sum is added up in the same order whatever the count, and holds the images
    and one network. No more proposals are ahead than there are processes. A script that calls this needs the usual
    guard, `if __name__ == "__main__"`.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (pickle.dumps(tune),))

    def many(jobs: Iterable[Job]) -> Iterator[Tried]:
        ahead: deque[Future[bytes]] = deque()
        for job in jobs:
            ahead.append(pool.submit(_work, pickle.dumps(job)))
            if len(ahead) >= count:
                yield _loaded(ahead.popleft().result())
        while ahead:
            yield _loaded(ahead.popleft().result())

    try:
        yield many
    finally:
        pool.shutdown(cancel_futures=True)


def _loaded(sent: bytes) -> Any:
    """What this pool's other side sent. As bytes, for tensors as they are go to shared memory, with an open file
    each."""
    return pickle.loads(sent)  # noqa: S301


def _begin(tune: bytes) -> None:
    global _tune
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()
    _tune = _loaded(tune)


def _end_with_parent() -> None:
    """A pool's processes would wait for work for ever after a kill of the one that gives it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: bytes) -> bytes:
    assert _tune is not None
    return pickle.dumps(_tune(*_loaded(job)))
