"""The lines of a batch job: a JSONL file read into tasks, each with a key, a name and the engine's arguments."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError

PICTURES = {layer: layer for layer in ("foreground", "background", "blended")} | {"init": "init_image", "mask": "mask"}
VALUES = {
    "method", "seed", "size", "batch", "steps", "guidance", "sampler", "strength", "weight", "stop_at", "layer_prompts",
    "resize_mode", "decode_passes", "latent_scale",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A line of the file. key: its content's hash. name: of its pictures. problem: why it cannot run, "" if it can."""

    index: int
    key: str
    name: str
    values: Mapping[str, Any]
    problem: str = ""


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
