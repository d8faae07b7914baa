"""How a batch job runs on this machine: in this process, or in several that take turns on its GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lib_layerdiffusion.engine.batch import BatchJob, TaskRunner, Way
from lib_layerdiffusion.engine.manifest import Outcome
from lib_layerdiffusion.engine.tasks import Task
from lib_layerdiffusion.errors import HostError


def way_of(job: BatchJob) -> Way:
    """The way for as many workers as the job asks for."""
    return _in_processes if job.workers > 1 else _in_this_process


def _in_this_process(job: BatchJob, tasks: list[Task]) -> Iterator[Outcome]:
    yield from map(TaskRunner(job), tasks)


_worker: dict[str, TaskRunner] = {}  # of this process; a pool's functions have no other place to keep one


def _start_worker(job: BatchJob, devices: Any, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to all; the parent says what becomes of the workers
    _follow_parent()
    _worker["runner"] = TaskRunner(job, devices.get())


def _run_in_worker(task: Task) -> Outcome:
    return _worker["runner"](task)


def _follow_parent() -> None:
    """End with the parent, also when it was killed: a worker that waits for work would stay for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_processes(job: BatchJob, tasks: list[Task]) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    count = min(job.workers, len(tasks))
    devices: Any = context.Queue()
    for name in _device_names(job, count):
        devices.put(name)
    threads = max(1, (os.cpu_count() or 1) // count)
    with ProcessPoolExecutor(count, context, _start_worker, (job, devices, threads)) as pool:
        waiting: set[Future[Outcome]] = {pool.submit(_run_in_worker, task) for task in tasks}
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                try:
                    while finished:
                        yield finished.pop().result()
                except KeyboardInterrupt:  # what the workers have begun is finished and kept
                    waiting = {future for future in waiting | finished if not future.cancel()}
        except BrokenProcessPool as error:
            raise HostError(
                "A worker died, most likely out of memory: use fewer workers and run this again."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _device_names(job: BatchJob, count: int) -> list[str]:
    """One for each worker, taking turns on several GPUs; "" for the default."""
    import torch

    gpus = torch.cuda.device_count() if job.model.get("device") in {None, "cuda"} else 0
    return [f"cuda:{index % gpus}" if gpus else "" for index in range(count)]
