"""The batch job on Ray Data: as many engines as there are GPUs (or `workers`), wherever Ray has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lib_layerdiffusion.engine.batch import BatchJob, TaskRunner
from lib_layerdiffusion.engine.manifest import Outcome
from lib_layerdiffusion.engine.ray_start import gpus_of, started
from lib_layerdiffusion.engine.tasks import Task


class _Actor:
    """One engine; Ray keeps it alive for all lines that it is given."""

    def __init__(self, job: BatchJob) -> None:
        self._runner = TaskRunner(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"outcome": self._runner(row["task"])}


def outcomes(job: BatchJob, tasks: list[Task]) -> Iterator[Outcome]:
    """Run tasks on Ray; the output folder must be one that all machines share.

    Raises:
        HostError: Ray is not installed.
    """
    ray = started("data")
    gpus = gpus_of(ray)
    rows = ray.data.from_items([{"task": task} for task in tasks])
    results = rows.map(_Actor, fn_constructor_args=(job,), concurrency=gpus or job.workers, num_gpus=1 if gpus else 0)
    for row in results.iter_rows():
        yield row["outcome"]
