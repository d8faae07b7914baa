"""Pictures drawn on all cores."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")
_FEW_CORES, _FEW_ITEMS = 4, 64


def _alone() -> None:
    """Keep a worker to one thread: as many threads as cores in as many processes stand in each other's way."""
    cv2.setNumThreads(0)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]`, in processes of their own where many items meet many cores.

    Function and items have to be picklable, and results should be arrays, not tensors, which would hold a file each.
    Processes are copies of this one, as those of torch's DataLoader: a new one would take seconds to import torch.
    """
    work: Sequence[Item] = list(items)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores <= _FEW_CORES or len(work) < _FEW_ITEMS or "fork" not in get_all_start_methods():
        return [function(item) for item in work]
    with ProcessPoolExecutor(cores, mp_context=get_context("fork"), initializer=_alone) as pool:
        return list(pool.map(function, work, chunksize=max(1, len(work) // (8 * cores))))
