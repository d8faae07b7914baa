"""Many pictures from a JSONL file: resumable, one manifest, any number of processes.

Only the parent writes the manifest, a line for each finished picture; pictures appear whole or not at all. Killed at
any moment, the job goes on from what the manifest and the folder agree on.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from lib_layerdiffusion.engine.manifest import Manifest, Outcome, only_job_in
from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.engine.tasks import Task, named, read_tasks
from lib_layerdiffusion.errors import LayerDiffusionError, StorageError
from lib_layerdiffusion.settings.kinds import whole

WORKERS = whole(1, 256)


class Engine(Protocol):
    """What makes pictures; `pipeline.Engine` says how."""

    def generate(self, prompt: str, **arguments: Any) -> Result: ...  # noqa: D102 - see above
    def extract_foreground(self, **arguments: Any) -> Result: ...  # noqa: D102
    def extract_background(self, **arguments: Any) -> Result: ...  # noqa: D102


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
    """Runs tasks with an engine of its own, loaded at the first one that can run."""

    def __init__(self, job: BatchJob, device: str = "") -> None:
        self._job = job
        self._model = {**job.model, "device": device} if device else dict(job.model)
        self._engine: Engine | None = None

    def __call__(self, task: Task) -> Outcome:
        """Make and save a task's pictures; a task that fails gives an outcome that says why.

        Raises:
            LayerDiffusionError: the engine cannot be loaded, or the pictures cannot be written.
        """
        base = {"line": task.index + 1, "key": task.key, "prompt": task.values.get("prompt", "")}
        if task.problem:
            return {**base, "status": "failed", "error": task.problem}
        if self._engine is None:
            self._engine = self._job.load(**self._model)
        try:
            result = getattr(self._engine, task.kind)(**task.values)
            files: list[str] = []
            for index, image in enumerate(result.images):
                stem = task.name if len(result.images) == 1 else f"{task.name}-{index + 1}"
                written = image.save(self._job.output, stem, previews=self._job.previews)
                files += [str(path.relative_to(self._job.output)) for path in written.values()]
        except StorageError:
            raise  # every further line would be computed for nothing
        except Exception as error:  # noqa: BLE001 - one line must not stop the others
            reason = str(error) if isinstance(error, LayerDiffusionError) else f"{type(error).__name__}: {error}"
            return {**base, "status": "failed", "error": reason}
        return {**base, "status": "done", "seed": result.seed, "files": files, "notes": list(result.notes)}


def run_batch(job: BatchJob, way: Way, *, quiet: bool = False) -> dict[str, Any]:
    """Run what is not done yet; returns counts of lines and the manifest's path.

    way: how tasks are run; `processes.way_of` chooses between this process and several, `batch_ray` has Ray's.

    Ctrl+C ends it after the pictures that are being made; nothing that is finished is lost.

    Raises:
        LayerDiffusionError: the file or the model cannot be used, another job writes there, or nothing can be written.
        Lines that fail do not raise; the manifest and "errors" say why.
    """
    WORKERS.read("Workers", job.workers)
    lines = read_tasks(job.lines)
    with only_job_in(job.output):
        manifest = Manifest(job.output)
        _remove_leftovers(job.output)
        tasks = named(lines, {task.key: files for task in lines if (files := manifest.files(task))})
        pending = [task for task in tasks if not manifest.is_done(task)]
        pending.sort(key=lambda task: not task.problem)  # what is wrong is told before a model is loaded
        with _bar(len(tasks), len(tasks) - len(pending), quiet=quiet) as advance:
            for outcome in _until_interrupted(way(job, pending)) if pending else ():
                manifest.add(outcome)
                advance()
        return _summary(tasks, pending, manifest)


def _summary(tasks: Sequence[Task], pending: Sequence[Task], manifest: Manifest) -> dict[str, Any]:
    """Counts by what lies in the folder now.

    Raises:
        StorageError: pictures that were made have gone meanwhile.
    """
    done, failed = sum(map(manifest.is_done, tasks)), manifest.failed(tasks)
    gone = len(tasks) - done - len(failed)
    if gone:
        raise StorageError(
            f'{gone} of {len(tasks)} pictures were made and have gone from "{manifest.path.parent}" meanwhile: '
            "run this again, and they are made anew."
        )
    errors = [{"line": item["line"], "error": item.get("error", "")} for item in failed]
    counts = {"lines": len(tasks), "done": done, "failed": len(failed), "new": len(pending)}
    return {**counts, "manifest": str(manifest.path), "errors": errors}


def _until_interrupted(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Outcomes until Ctrl+C, and then those of the pictures that are being made; a second Ctrl+C ends at once.

    Raises:
        KeyboardInterrupt: after the last of them.
    """
    with _noticed_interrupts() as interrupted:
        told = False
        while True:
            try:
                if interrupted() and not told:
                    told = True
                    outcome = cast("Generator[Outcome, None, None]", outcomes).throw(KeyboardInterrupt())
                else:
                    outcome = next(outcomes)
            except StopIteration:
                break
            yield outcome
        if interrupted():
            raise KeyboardInterrupt


@contextmanager
def _noticed_interrupts() -> Generator[Callable[[], bool], None, None]:
    noticed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noticed.is_set
        return
    own = signal.getsignal(signal.SIGINT)

    def notice(_number: int, _frame: object) -> None:
        if noticed.is_set():
            raise KeyboardInterrupt
        noticed.set()
        sys.stderr.write("\nStopping when the picture in work is done; Ctrl+C again stops at once.\n")

    signal.signal(signal.SIGINT, notice)
    try:
        yield noticed.is_set
    finally:
        signal.signal(signal.SIGINT, own)


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
