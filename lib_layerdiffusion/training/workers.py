"""Pictures drawn on all cores."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_FEW_CORES, _FEW_ITEMS = 4, 64


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]`, in processes of their own where many items meet many cores.

    Both function and items have to be picklable.
    """
    work: Sequence[Item] = list(items)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores <= _FEW_CORES or len(work) < _FEW_ITEMS:
        return [function(item) for item in work]
    # Processes started anew: copies of one that has computed with several threads can stand still.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return list(pool.map(function, work, chunksize=max(1, len(work) // (4 * cores))))
