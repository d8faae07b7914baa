"""Checkpoints: whole or not there, read with care, in a folder that one training has for itself; averaged weights."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_layerdiffusion.errors import HostError, StorageError, WeightsError

CHECKPOINT = "checkpoint.pt"
"""A stage's file in its folder."""
LOCK = ".lock"
_WRAPPED = ".text_model."
"""In names of a CLIP text model's parameters before transformers 5; later ones leave it out."""
_GOES_ON = "run this again when that is put right, and it goes on from its last checkpoint."


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors so that the file is complete whenever it is seen; a kill leaves the old one, or none.

    Raises:
        StorageError: it cannot be written; nothing is left of it.
    """
    partial = path.with_suffix(".part")
    with storing(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def storing(folder: Path) -> Generator[None, None, None]:
    """Say in a sentence that a folder cannot be written, which PyTorch says as a RuntimeError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f'"{folder}" cannot be written: {error.strerror or error}; {_GOES_ON}') from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "file write failed" not in str(error):
            raise
        raise StorageError(f'"{folder}" cannot be written: there may be no room left; {_GOES_ON}') from error


@contextmanager
def alone_in(folder: Path, *, is_writer: bool = True) -> Generator[None, None, None]:
    """The folder for one training; a killed one gives it back."""
    if not is_writer:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HostError(f'Another training writes into "{folder}": wait for it, or choose another folder.') from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def read_checkpoint(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        WeightsError: it is none, or damaged.
    """
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
    except Exception as error:  # PyTorch has no kind of its own for it
        raise WeightsError(f'"{checkpoint}" is no checkpoint of this recipe, or damaged: move it away.') from error
    if not isinstance(state, dict) or not {"step", "elapsed", "parameters", "average", "optimizer"} <= state.keys():
        raise WeightsError(f'"{checkpoint}" is no checkpoint of this recipe: move it away.')
    for kind in ("parameters", "average"):
        state[kind] = {key.replace(_WRAPPED, "."): value for key, value in state[kind].items()}
    return state


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters of modules by the names that checkpoints have for them, whatever a release of transformers says."""
    named = [(f"{name}.{key}", value) for name, part in modules.items() for key, value in part.named_parameters()]
    return {key.replace(_WRAPPED, "."): value for key, value in named}


class averaged:  # noqa: N801 - reads as a verb: `with averaged(...)`
    """Put averaged parameters into modules for the length of a `with` block."""

    def __init__(self, modules: Mapping[str, nn.Module], average: Mapping[str, Tensor]) -> None:
        self.targets = named_parameters(modules)
        self.average = average
        self.kept: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        self.kept = {key: self.targets[key].detach().clone() for key in self.average}
        self._copy(self.average)

    def __exit__(self, *exception: object) -> None:
        self._copy(self.kept)

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for key, value in values.items():
                self.targets[key].copy_(value)
