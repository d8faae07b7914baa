"""The manifest of a batch job: what became of every line, on disk before the next one is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_layerdiffusion.engine.tasks import Task
from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.images.files import write_bytes

MANIFEST = "manifest.jsonl"
Outcome = dict[str, Any]
"""A line of the manifest."""


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
