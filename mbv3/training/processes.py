"""The processes that torchrun starts, which train together."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

__all__ = ["all_agree", "processes", "together"]


def processes() -> tuple[int, int]:
    """(rank, number) of the processes that train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def all_agree(fine: bool, device: torch.device) -> bool:
    """Whether it is fine on every process: one that stops alone leaves the others waiting for it."""
    if processes()[1] == 1:
        return fine
    flag = torch.tensor(int(fine), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MIN)
    return bool(flag)


@contextmanager
def together() -> Iterator[None]:
    """Under torchrun: the processes know each other (NCCL where there are GPUs, else gloo)."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # the first process decodes the images while the others wait
    distributed.init_process_group(backend, timeout=timedelta(hours=12))
    try:
        yield
    finally:
        distributed.destroy_process_group()
        # DistributedDataParallel is held by cycles of its own, and holds the group's threads: found running when the
        # interpreter ends they abort the process, and torchrun tells of a failure of what had come to its end
        gc.collect()
