"""Many pictures from a JSONL file: resumable, one manifest, any number of processes.

Only the parent writes the manifest, a line for each finished picture; pictures appear whole or not at all. Killed at
any moment, the job goes on from what the manifest and the folder agree on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import HostError, InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.images.files import write_bytes

MANIFEST = "manifest.jsonl"
PICTURES = {layer: layer for layer in ("foreground", "background", "blended")} | {"init": "init_image", "mask": "mask"}
VALUES = {
    "method", "seed", "size", "batch", "steps", "guidance", "sampler", "strength", "weight", "stop_at", "layer_prompts",
    "resize_mode", "decode_passes", "latent_scale",
}  # fmt: skip


@dataclass(frozen=True)
class BatchJob:
    """lines: JSONL file. output: folder. model: arguments of `LayerDiffusion.from_checkpoint`. workers: processes."""

    lines: Path
    output: Path
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workers: int = 1
    previews: bool = False


@dataclass(frozen=True)
class Task:
    """A line of the file. key: its content's hash. name: of its pictures. problem: why it cannot run, "" if it can."""

    index: int
    key: str
    name: str
    values: Mapping[str, Any]
    problem: str = ""


Outcome = dict[str, Any]
Runner = Callable[[Task], Outcome]


def read_tasks(path: Path) -> list[Task]:
    """The lines of a JSONL file; unreadable ones become tasks with a problem.

    Raises:
        InputError: the file cannot be read or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'"{path}" cannot be read as a text file of prompts: {error}.') from error
    tasks: list[Task] = []
    taken: set[str] = set()
    for index, line in enumerate(text.splitlines()):
        if line.strip():
            task = _task(index, line, path.parent, taken)
            taken.add(task.name)
            tasks.append(task)
    if not tasks:
        raise InputError(f'"{path}" has no line: write one JSON object a line, such as {{"prompt": "an apple"}}.')
    return tasks


def _task(index: int, line: str, folder: Path, taken: set[str]) -> Task:
    key = hashlib.sha256(line.strip().encode()).hexdigest()[:16]
    name = f"{index + 1:05d}"
    try:
        raw = json.loads(line)
        if isinstance(raw, str):
            raw = {"prompt": raw}
        values = _arguments(raw, folder)
        if "name" in raw:
            name = _file_name(raw["name"], taken)
    except (ValueError, LayerDiffusionError) as error:
        reason = str(error) if isinstance(error, LayerDiffusionError) else f"it is no JSON ({error})"
        return Task(index, key, name, {}, f"Line {index + 1}: {reason}")
    # Without a seed of its own a line takes one from its content and place, so that a second run repeats it.
    values.setdefault("seed", zlib.crc32(f"{index}:{key}".encode()))
    return Task(index, key, name, values)


def _arguments(raw: object, folder: Path) -> dict[str, Any]:
    if not isinstance(raw, dict) or not isinstance(raw.get("prompt"), str):
        raise SettingsError('it needs a "prompt" that is text.')
    unknown = sorted(set(raw) - VALUES - set(PICTURES) - {"prompt", "negative", "name"})
    if unknown:
        known = ", ".join(sorted({*VALUES, *PICTURES, "prompt", "negative", "name"}))
        raise SettingsError(f'"{unknown[0]}" is unknown; use {known}.')
    values = {key: raw[key] for key in VALUES if raw.get(key) is not None}
    values |= {PICTURES[key]: str(folder / str(raw[key])) for key in PICTURES if raw.get(key)}
    return {**values, "prompt": raw["prompt"], "negative_prompt": str(raw.get("negative") or "")}


def _file_name(name: object, taken: set[str]) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]{0,120}", name) or name.endswith((".", " ")):
        raise SettingsError(f'"{name}" is no name for a file: use letters, digits, blank, dot, dash and underscore.')
    if name in taken:
        raise SettingsError(f'the name "{name}" is used twice.')
    return name


def _outcome(line: str) -> Outcome | None:
    """A line of a manifest, None where a kill or an editor has cut it."""
    try:
        item = json.loads(line)
    except ValueError:
        return None
    return item if isinstance(item, dict) and isinstance(item.get("line"), int) else None


class Manifest:
    """The outcome of every line, one JSON object a line, newest last."""

    def __init__(self, folder: Path) -> None:
        self.path, self._folder = folder / MANIFEST, folder
        self._outcomes = self._read()
        # A line that was cut by a kill goes, and so do outcomes that later ones replace.
        content = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in self._outcomes.values())
        write_bytes(self.path, content.encode())

    def _read(self) -> dict[int, Outcome]:
        if not self.path.is_file():
            return {}
        items = map(_outcome, self.path.read_text(encoding="utf-8", errors="replace").splitlines())
        return {item["line"]: item for item in items if item is not None}

    def is_done(self, task: Task) -> bool:
        """Whether this very line was finished and its files are still there."""
        item = self._outcomes.get(task.index + 1)
        if item is None or item.get("status") != "done" or item.get("key") != task.key:
            return False
        return all((self._folder / name).is_file() for name in item.get("files", []))

    def add(self, outcome: Outcome) -> None:
        """Append an outcome; it is on the disk when this returns.

        Raises:
            LayerDiffusionError: it cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(outcome, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LayerDiffusionError(f'"{self.path}" cannot be written: {error.strerror or error}.') from error
        self._outcomes[outcome["line"]] = outcome

    def count(self, status: str, tasks: Iterable[Task]) -> int:
        """How many of these lines ended so."""
        items = (self._outcomes.get(task.index + 1, {}) for task in tasks)
        return sum(item.get("status") == status for item in items)


class TaskRunner:
    """Runs tasks with an engine of its own, loaded at the first one."""

    def __init__(self, model: Mapping[str, Any], output: Path, *, previews: bool = False) -> None:
        self._model, self._output, self._previews = dict(model), output, previews
        self._engine: Any = None

    def load(self) -> None:
        """Load the engine, once.

        Raises:
            LayerDiffusionError: it cannot be loaded.
        """
        if self._engine is None:
            from lib_layerdiffusion.engine.pipeline import LayerDiffusion

            self._engine = LayerDiffusion.from_checkpoint(**self._model)

    def __call__(self, task: Task) -> Outcome:
        """Make and save a task's pictures; a task that fails gives an outcome that says why."""
        self.load()
        base = {"line": task.index + 1, "key": task.key, "prompt": task.values.get("prompt", "")}
        if task.problem:
            return {**base, "status": "failed", "error": task.problem}
        try:
            result = self._engine.generate(**task.values)
            files: list[str] = []
            for index, image in enumerate(result.images):
                stem = task.name if len(result.images) == 1 else f"{task.name}-{index + 1}"
                written = image.save(self._output, stem, previews=self._previews)
                files += [str(path.relative_to(self._output)) for path in written.values()]
        except Exception as error:  # noqa: BLE001 - one line must not stop the others
            reason = str(error) if isinstance(error, LayerDiffusionError) else f"{type(error).__name__}: {error}"
            return {**base, "status": "failed", "error": reason}
        return {**base, "status": "done", "seed": result.seed, "files": files, "notes": list(result.notes)}


def run_batch(job: BatchJob, *, on_ray: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Run what is not done yet; returns counts of lines and the manifest's path.

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
    if on_ray:
        from lib_layerdiffusion.engine.batch_ray import outcomes
    else:
        outcomes = _in_processes if job.workers > 1 else _in_this_process
    with _bar(len(tasks), len(tasks) - len(pending), quiet=quiet) as advance:
        for outcome in outcomes(job, pending) if pending else ():
            manifest.add(outcome)
            advance()
    done, failed = (manifest.count(status, tasks) for status in ("done", "failed"))
    return {"lines": len(tasks), "done": done, "failed": failed, "new": len(pending), "manifest": str(manifest.path)}


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of a run that was killed; they never had a picture's name."""
    for path in folder.glob(".*.png.*"):
        path.unlink(missing_ok=True)


def _in_this_process(job: BatchJob, tasks: list[Task]) -> Iterator[Outcome]:
    yield from map(TaskRunner(job.model, job.output, previews=job.previews), tasks)


_worker: dict[str, TaskRunner] = {}  # of this process; a pool's functions have no other place to keep one


def _start_worker(job: BatchJob, devices: Any, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _follow_parent()
    model = dict(job.model)
    device = devices.get()
    if device:
        model["device"] = device
    _worker["runner"] = TaskRunner(model, job.output, previews=job.previews)


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
                yield from (future.result() for future in finished)
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
