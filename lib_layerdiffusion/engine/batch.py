"""Many pictures from a JSONL file: resumable, one manifest, any number of processes.

Only the parent writes the manifest, a line for each finished picture; pictures appear whole or not at all. Killed at
any moment, the job goes on from what the manifest and the folder agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lib_layerdiffusion.engine.manifest import Manifest, Outcome
from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.engine.tasks import Task, read_tasks
from lib_layerdiffusion.errors import LayerDiffusionError, SettingsError


class Engine(Protocol):
    """What makes pictures; `pipeline.Engine` says how."""

    def generate(self, prompt: str, **arguments: Any) -> Result: ...  # noqa: D102 - see above


@dataclass(frozen=True)
class BatchJob:
    """lines: JSONL file. output: folder. workers: processes.

    load: makes the engine of a process. It travels to other processes, so it is a function of a module or a class.
    model: its arguments; a worker adds the "device" that it is to use.
    """

    lines: Path
    output: Path
    load: Callable[..., Engine]
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workers: int = 1
    previews: bool = False


Way = Callable[[BatchJob, list[Task]], Iterator[Outcome]]
"""Runs tasks and gives their outcomes, in any order."""


class TaskRunner:
    """Runs tasks with an engine of its own, loaded at the first one."""

    def __init__(self, job: BatchJob, device: str = "") -> None:
        self._job = job
        self._model = {**job.model, "device": device} if device else dict(job.model)
        self._engine: Engine | None = None

    def __call__(self, task: Task) -> Outcome:
        """Make and save a task's pictures; a task that fails gives an outcome that says why.

        Raises:
            LayerDiffusionError: the engine cannot be loaded.
        """
        if self._engine is None:
            self._engine = self._job.load(**self._model)
        base = {"line": task.index + 1, "key": task.key, "prompt": task.values.get("prompt", "")}
        if task.problem:
            return {**base, "status": "failed", "error": task.problem}
        try:
            result = self._engine.generate(**task.values)
            files: list[str] = []
            for index, image in enumerate(result.images):
                stem = task.name if len(result.images) == 1 else f"{task.name}-{index + 1}"
                written = image.save(self._job.output, stem, previews=self._job.previews)
                files += [str(path.relative_to(self._job.output)) for path in written.values()]
        except Exception as error:  # noqa: BLE001 - one line must not stop the others
            reason = str(error) if isinstance(error, LayerDiffusionError) else f"{type(error).__name__}: {error}"
            return {**base, "status": "failed", "error": reason}
        return {**base, "status": "done", "seed": result.seed, "files": files, "notes": list(result.notes)}


def run_batch(job: BatchJob, way: Way, *, quiet: bool = False) -> dict[str, Any]:
    """Run what is not done yet; returns counts of lines and the manifest's path.

    way: how tasks are run; `processes.way_of` chooses between this process and several, `batch_ray` has Ray's.

    Raises:
        LayerDiffusionError: the file or the model cannot be used, or nothing can be written. Lines that fail do not
        raise; the manifest says why.
    """
    if not 1 <= job.workers <= 256:
        raise SettingsError(f"Workers must be from 1 to 256, not {job.workers}.")
    tasks = read_tasks(job.lines)
    manifest = Manifest(job.output)
    _remove_leftovers(job.output)
    pending = [task for task in tasks if not manifest.is_done(task)]
    with _bar(len(tasks), len(tasks) - len(pending), quiet=quiet) as advance:
        for outcome in way(job, pending) if pending else ():
            manifest.add(outcome)
            advance()
    done, failed = (manifest.count(status, tasks) for status in ("done", "failed"))
    return {"lines": len(tasks), "done": done, "failed": failed, "new": len(pending), "manifest": str(manifest.path)}


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of a run that was killed; they never had a picture's name."""
    for path in folder.glob(".*.png.*"):
        path.unlink(missing_ok=True)


class _bar:  # noqa: N801 - used like a function
    """A progress bar on standard error, where that is a terminal and tqdm is installed."""

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return
        self._bar = tqdm(total=total, initial=done, unit="picture", disable=True if quiet else None)

    def __enter__(self) -> Callable[[], None]:
        return lambda: None if self._bar is None else self._bar.update()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
