"""The lines of a batch job: a JSONL file read into tasks, each with a key, a name and the engine's arguments."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from lib_layerdiffusion.engine.request import VALUES as REQUEST_VALUES
from lib_layerdiffusion.engine.request import check_size, parse_size
from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError, quoted
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.fields import FIELDS

PICTURES = {layer: layer for layer in ("foreground", "background", "blended")} | {"init": "init_image", "mask": "mask"}
VALUES = {
    "method", "seed", "size", "batch", "steps", "guidance", "sampler", "strength", "weight", "stop_at", "layer_prompts",
    "resize_mode", "decode_passes", "latent_scale",
}  # fmt: skip

GENERATE = "generate"
CHAINS = {"background": "extract_foreground", "foreground": "extract_background"}
"""Picture that a chain begins with -> the engine's function."""
_NOT_IN_CHAINS = ("method", "blended", "init", "mask", "strength", "layer_prompts")
_KINDS = {
    **{row.name: row.kind for row in FIELDS if row.name in VALUES and row.name != "method"},
    **REQUEST_VALUES,
    "negative": REQUEST_VALUES["negative_prompt"],
}
"""How a line's values are read; what a method's name means depends on the model."""
_MOST_PICTURES = 256
_ENDINGS = tuple(
    f"{layer}{kind}"
    for layer in ("", *(f"-{layer}" for layer in Layer))
    for kind in ("", "-preview", "-before-decoding")
)
"""What `LayerPicture.save` puts behind a name."""


@dataclass(frozen=True)
class Task:
    """A line of the file.

    key: of its content and its count among equal lines. name: of its pictures, "" where none is given yet. problem: why
    it cannot run, "" if it can. kind: the engine's function that makes its pictures.
    """

    index: int
    key: str
    name: str
    values: Mapping[str, Any]
    problem: str = ""
    kind: str = GENERATE


def read_tasks(path: Path) -> list[Task]:
    """The lines of a JSONL file; unreadable ones become tasks with a problem.

    A line's key is its content and its count among equal ones, so that lines may be put before it.

    Raises:
        InputError: the file cannot be read or has no line.
    """
    try:
        # Not splitlines(): prompts may hold Unicode's own line ends.
        lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'"{path}" cannot be read as a text file of prompts: {error}.') from error
    equals: Counter[str] = Counter()
    tasks: list[Task] = []
    for index, line in enumerate(lines):
        content = line.strip()
        if content:
            tasks.append(_task(index, content, equals[content], path.parent))
            equals[content] += 1
    if not tasks:
        raise InputError(f'"{path}" has no line: write one JSON object a line, such as {{"prompt": "an apple"}}.')
    return tasks


def _task(index: int, content: str, equals: int, folder: Path) -> Task:
    key = hashlib.sha256((content if equals == 0 else f"{content}\n{equals}").encode()).hexdigest()[:16]
    try:
        raw = json.loads(content)
        if isinstance(raw, str):
            raw = {"prompt": raw}
        values = _arguments(raw, folder)
        kind = _kind(raw)
        name = _file_name(raw["name"]) if "name" in raw else ""
    except (ValueError, RecursionError, LayerDiffusionError) as error:
        reason = str(error) if isinstance(error, LayerDiffusionError) else f"it is no JSON ({error})"
        return Task(index, key, "", {}, f"Line {index + 1}: {reason}")
    # Without a seed of its own a line takes one from its content, so that a second run repeats it.
    values.setdefault("seed", zlib.crc32(key.encode()))
    return Task(index, key, name, values, kind=kind)


def _arguments(raw: object, folder: Path) -> dict[str, Any]:
    if not isinstance(raw, dict) or not isinstance(raw.get("prompt"), str):
        raise SettingsError('it needs a "prompt" that is text.')
    unknown = sorted(set(raw) - VALUES - set(PICTURES) - {"prompt", "scene", "negative", "name"})
    if unknown:
        known = ", ".join(sorted({*VALUES, *PICTURES, "prompt", "scene", "negative", "name"}))
        raise SettingsError(f"{quoted(unknown[0])} is unknown; use {known}.")
    values = {key: raw[key] for key in VALUES if raw.get(key) is not None}
    _check_values({**values, **({"negative": raw["negative"]} if raw.get("negative") is not None else {})})
    for key in PICTURES:
        if raw.get(key) is not None:
            if not isinstance(raw[key], str):
                raise SettingsError(f"{key} must be the path of a picture, not {quoted(raw[key])}.")
            values[PICTURES[key]] = str(folder / raw[key])
    if isinstance(raw.get("scene"), str):
        values["scene"] = raw["scene"]
    negative = raw.get("negative")
    return {**values, "prompt": raw["prompt"], "negative_prompt": "" if negative is None else negative}


def _check_values(values: Mapping[str, Any]) -> None:
    """Refuse what is wrong whatever the model is, so that no model is loaded for it."""
    for key, value in values.items():
        if key == "size":
            check_size(*parse_size(value))
        elif key in _KINDS:
            _KINDS[key].read(key, value)


def _kind(raw: Mapping[str, Any]) -> str:
    """What a line asks for: with a "scene" it is a chain of two steps, from the one picture that it gives."""
    if raw.get("scene") is None:
        return GENERATE
    if not isinstance(raw["scene"], str):
        raise SettingsError(f'"scene" must be text, not {quoted(raw["scene"])}.')
    given = [name for name in CHAINS if raw.get(name) is not None]
    if len(given) != 1:
        raise SettingsError(
            'with a "scene" it is a chain, which begins with a "background" or a "foreground": give one.'
        )
    wrong = next((name for name in _NOT_IN_CHAINS if raw.get(name) is not None), "")
    if wrong:
        raise SettingsError(f'with a "scene" it is a chain, which takes no "{wrong}": leave it out.')
    return CHAINS[given[0]]


def _file_name(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]{0,120}", name) or name.endswith((".", " ")):
        raise SettingsError(
            f"{quoted(name)} is no name for a file: use letters, digits, blank, dot, dash and underscore."
        )
    return name


def named(tasks: Sequence[Task], finished: Mapping[str, Sequence[str]]) -> list[Task]:
    """The tasks with names of which no two would write the same file; where they would, the later one has a problem.

    finished: key -> files of lines that are done, which nothing may write over. Lines without a name of their own take
    their number, with another behind it where that is taken.
    """
    taken = {stem: "one that is done" for names in finished.values() for stem in map(_stem_of, names)}
    given: dict[int, Task] = {}
    for task in tasks:
        if task.key in finished or task.problem or not task.name:
            given[task.index] = task
            continue
        other = next((taken[stem] for stem in _stems(task, task.name) if stem in taken), None)
        if other is not None:
            reason = f"Line {task.index + 1}: the name {quoted(task.name)} is used twice: {other} writes the same file."
            given[task.index] = replace(task, problem=reason)
        else:
            given[task.index] = task
            taken |= dict.fromkeys(_stems(task, task.name), f"line {task.index + 1}")
    for task in tasks:
        if not (task.name or task.problem or task.key in finished):
            number = f"{task.index + 1:05d}"
            names = (number if again == 1 else f"{number}_{again}" for again in count(1))
            name = next(name for name in names if taken.keys().isdisjoint(_stems(task, name)))
            given[task.index] = replace(task, name=name)
            taken |= dict.fromkeys(_stems(task, name), f"line {task.index + 1}")
    return [given[task.index] for task in tasks]


def _stem_of(file: str) -> str:
    return Path(file).stem.casefold()


def _stems(task: Task, name: str) -> list[str]:
    """Every name, without its ending and in small letters, that a file of the task's could have."""
    pictures = task.values.get("batch", 1)
    several = type(pictures) is int and 1 < pictures <= _MOST_PICTURES
    roots = [f"{name}-{index + 1}" for index in range(pictures)] if several else [name]
    return [f"{root}{ending}".casefold() for root in roots for ending in _ENDINGS]
