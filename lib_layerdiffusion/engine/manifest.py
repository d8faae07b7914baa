"""The manifest of a batch job: what became of every line, on disk before the next one is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lib_layerdiffusion.engine.tasks import Task
from lib_layerdiffusion.errors import HostError, StorageError
from lib_layerdiffusion.images.files import write_bytes

MANIFEST = "manifest.jsonl"
LOCK = ".lock"
Outcome = dict[str, Any]
"""A line of the manifest."""


@contextmanager
def only_job_in(folder: Path) -> Generator[None, None, None]:
    """The folder for one job, which a killed one gives back; file systems without locks have to do without.

    Raises:
        HostError: another job writes there. StorageError: nothing can be written there.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HostError(
            f'Another job writes into "{folder}": wait until it is done, or choose another folder.'
        ) from error
    except NotImplementedError:
        yield
        return
    except OSError as error:
        raise StorageError(f'"{folder}" cannot be written: {error.strerror or error}.') from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _outcome(line: str) -> Outcome | None:
    """A line of a manifest, None where a kill or an editor has spoilt it."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict) or type(item.get("line")) is not int or not isinstance(item.get("key"), str):
        return None
    files = item.get("files", [])
    plain = isinstance(files, list) and all(_is_file_name(name) for name in cast("list[object]", files))
    return cast("Outcome", item) if plain else None


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) < 256 and "\0" not in name and not {"/", "\\"}.intersection(name)


def _written(item: Outcome) -> bytes:
    text = json.dumps(item, ensure_ascii=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return f"{json.dumps(item)}\n".encode()


class Manifest:
    """The outcome of every line, one JSON object a line, newest last."""

    def __init__(self, folder: Path) -> None:
        self.path, self._folder = folder / MANIFEST, folder
        self._outcomes = self._read()
        # A line that was cut by a kill goes, and so do outcomes that later ones replace.
        write_bytes(self.path, b"".join(map(_written, self._outcomes.values())))

    def _read(self) -> dict[str, Outcome]:
        if not self.path.is_file():
            return {}
        try:
            # Not splitlines(): prompts may hold Unicode's own line ends.
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            raise StorageError(f'"{self.path}" cannot be read: {error.strerror or error}.') from error
        found: dict[str, Outcome] = {}
        for item in filter(None, map(_outcome, lines)):
            found.pop(item["key"], None)
            found[item["key"]] = item
        return found

    def files(self, task: Task) -> list[str]:
        """The pictures that this very line was finished with, where all of them are still there."""
        item = self._outcomes.get(task.key, {})
        names = cast("list[str]", item.get("files", []))
        whole = item.get("status") == "done" and names and all((self._folder / name).is_file() for name in names)
        return names if whole else []

    def is_done(self, task: Task) -> bool:
        """Whether this very line was finished and its files are still there."""
        return bool(self.files(task))

    def add(self, outcome: Outcome) -> None:
        """Append an outcome; it is on the disk when this returns.

        Raises:
            StorageError: it cannot be written, or somebody has taken the manifest away.
        """
        try:
            with self.path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(_written(outcome))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError as error:
            raise StorageError(
                f'"{self._folder}" was removed while the job ran: run it again, and what is missing is made anew.'
            ) from error
        except OSError as error:
            raise StorageError(f'"{self.path}" cannot be written: {error.strerror or error}.') from error
        self._outcomes[outcome["key"]] = outcome

    def failed(self, tasks: Iterable[Task]) -> list[Outcome]:
        """The outcomes of those lines that failed, in the order of the lines."""
        items = (self._outcomes.get(task.key, {}) for task in tasks)
        return [item for item in items if item.get("status") == "failed"]
