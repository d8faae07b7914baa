"""Places that cannot be written, for every command that writes; and two of a command at once in one place."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.cli import main
from tests.faults.found import ROOT, Found
from tests.tiny_family import new_engine, picture, write_layers

NOBODY = 65534
OLD = b"what was here before"

COMMANDS: dict[str, list[str]] = {
    "generate, a file": ["generate", "apple", "--steps", "1", "-o", "{to}/a.png"],
    "generate, a folder": ["generate", "apple", "--steps", "1", "-o", "{to}", "--preview", "--rgb-and-mask"],
    "generate, layers": ["generate", "apple", "--steps", "1", "-o", "{to}/a.png", "--layers", "ora", "psd"],
    "chain": ["chain", "apple", "--steps", "1", "--background", "{by}/rgb.png", "-o", "{to}"],
    "batch": ["batch", "{by}/lines.jsonl", "-o", "{to}"],
    "encode": ["encode", "{by}/rgba.png", "-o", "{to}/a.safetensors"],
    "encode, beside": ["encode", "{to}/rgba.png"],
    "decode": ["decode", "{by}/latent.safetensors", "-o", "{to}/a.png"],
    "pad": ["pad", "{by}/rgba.png", "-o", "{to}/a.png"],
    "compose": ["compose", "{by}/rgb.png", "{by}/rgba.png", "-o", "{to}/a.png"],
    "compose, ora": ["compose", "{by}/rgb.png", "{by}/rgba.png", "-o", "{to}/a.ora"],
    "compose, psd": ["compose", "{by}/rgb.png", "{by}/rgba.png", "-o", "{to}/a.psd"],
}


def _given(by: Path) -> None:
    by.mkdir()
    picture(64, 64, 1).save(by / "rgba.png")
    picture(64, 64, 2).convert("RGB").save(by / "rgb.png")
    save_file({"latent": torch.zeros(1, 4, 8, 8)}, by / "latent.safetensors")
    (by / "lines.jsonl").write_text('{"prompt": "a", "steps": 1}\n{"prompt": "b", "steps": 1}\n')


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """The folder may not be changed; root, whom nothing holds back, is somebody else meanwhile."""
    place.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        place.chmod(0o755)


@contextmanager
def full(place: Path) -> Iterator[None]:
    """A file system of 32 KiB that is full to the last bytes; elsewhere no file may get longer than a few."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", place], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if mounted:
            _refill(place)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", place], check=True)


def _refill(place: Path) -> None:
    for name in ("a.png", "a.safetensors", "a.ora", "a.psd"):
        (place / name).write_bytes(OLD)
    picture(64, 64, 1).resize((8, 8)).resize((64, 64)).save(place / "rgba.png")
    with contextlib.suppress(OSError), (place / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 64)


@contextmanager
def a_file_in_its_place(place: Path) -> Iterator[None]:
    """What should be the folder is a file."""
    aside = place.with_name("aside")
    place.rename(aside)
    place.write_bytes(OLD)
    yield
    place.unlink()
    aside.rename(place)


FAULTS: dict[str, Callable[[Path], contextlib.AbstractContextManager[None]]] = {
    "read-only": read_only,
    "full": full,
    "a file in its place": a_file_in_its_place,
}


def unwritable_places(folder: Path, scale: float) -> Found:
    """Places that cannot be written: read-only, full, a file in their place; every command that writes."""
    del folder, scale
    found, own = Found(), LayerDiffusion.from_checkpoint
    # Not below a folder that somebody else than root may not even enter.
    with tempfile.TemporaryDirectory(prefix="layerdiffusion-faults-") as name:
        root = Path(name)
        root.chmod(0o755)
        engine = new_engine(write_layers(root / "layers"))
        LayerDiffusion.from_checkpoint = lambda *_, **__: engine  # type: ignore[method-assign]
        try:
            _given(root / "by")
            for command, words in COMMANDS.items():
                _try_command(found, command, words, root)
        finally:
            LayerDiffusion.from_checkpoint = own  # type: ignore[method-assign]
    return found


def _try_command(found: Found, command: str, words: list[str], root: Path) -> None:
    def at(place: Path) -> list[str]:
        return [word.format(by=root / "by", to=place) for word in words]

    _prepare(root / "right")
    code, said = _run(at(root / "right"))
    shutil.rmtree(root / "right")
    problems = [f"fails where nothing is wrong: {said}"] if code else []
    for kind, fault in FAULTS.items():
        found.tried += 1
        problem = _try(at(root / "to"), root / "to", fault)
        problems += [f"{kind}: {problem}"] if problem else []
    found.wrong += len(problems)
    found.notes += [f"{command}, {problem}" for problem in problems]


def _prepare(place: Path) -> None:
    place.mkdir()
    for name in ("a.png", "a.safetensors", "a.ora", "a.psd"):
        (place / name).write_bytes(OLD)
    picture(64, 64, 1).save(place / "rgba.png")


def _run(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()


def _try(words: list[str], place: Path, fault: Callable[[Path], contextlib.AbstractContextManager[None]]) -> str:
    """What is not as it has to be: a sentence, exit code 1, what was there untouched, and nothing beside it."""
    _prepare(place)
    with fault(place):
        before = _content(place)
        code, said = _run(words)
        after = _content(place)
    shutil.rmtree(place)
    if code != 1 or "Traceback" in said or "Error:" in said:
        return f"exit code {code}: {said[-300:]}"
    after = {name: content for name, content in after.items() if content or name != "manifest.jsonl"}
    if before != after:
        return f"the place changed: {sorted(before.keys() ^ after.keys())}"
    return ""


def _content(place: Path) -> dict[str, bytes]:
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


PROCESSES, EACH = 3, 15
_AT_ONCE = f"""
import sys, tempfile
from pathlib import Path
from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.cli import main
from tests.tiny_family import new_engine, write_layers
with tempfile.TemporaryDirectory() as layers:
    engine = new_engine(write_layers(Path(layers)))
    LayerDiffusion.from_checkpoint = lambda *_, **__: engine
    print(flush=True)
    sys.stdin.readline()
    for number in range({EACH}):
        words = ["generate", "apple", "--seed", "1", "--steps", "1", "-o", sys.argv[1], "--layers", "ora"]
        assert main(words) == 0
"""


def several_at_once(folder: Path, scale: float) -> Found:
    """Several commands at once in one folder: each would take the same name; none may write over another's."""
    found = Found(tried=PROCESSES * EACH)
    del scale
    command = [sys.executable, "-c", _AT_ONCE, str(folder)]
    ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, **ways) for _ in range(PROCESSES)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.communicate("go\n")
        found.lost += process.returncode != 0
    for ending in (".png", ".ora"):
        made = list(folder.glob(f"*{ending}"))
        found.lost += max(0, found.tried - len(made))
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            found.wrong += np.asarray(image).shape != (64, 64, 4)
    return found
