"""Reading a safetensors file, and refusing everything else before a byte of it is believed.

The format: eight bytes with the length of the header, a JSON header with each tensor's place, then the tensors without
gaps (safetensors documentation, "Format").
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from safetensors import SafetensorError  # pyright: ignore[reportAttributeAccessIssue] - of the compiled part
from safetensors.torch import load_file
from torch import Tensor

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.weights.catalogue import WeightFile

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
_CHUNK = 1 << 22
_FOREIGN = (
    (b"PK\x03\x04", "a pickled checkpoint, which can run programs when it is opened"),
    (b"\x80\x02", "a pickled checkpoint, which can run programs when it is opened"),
    (b"\x80\x03", "a pickled checkpoint, which can run programs when it is opened"),
    (b"\x80\x04", "a pickled checkpoint, which can run programs when it is opened"),
    (b"\x80\x05", "a pickled checkpoint, which can run programs when it is opened"),
    (b"version https://git-lfs", "a pointer of git-lfs instead of the file itself"),
    (b"<", "a web page instead of the file itself"),
    (b"GGUF", "a GGUF file"),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: they are read when they are used.

    Raises:
        WeightsError: the file is missing, damaged, or no safetensors file.
    """
    check_file(path)
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, "its tensors cannot be read") from error


def check_file(path: Path, file: WeightFile | None = None) -> None:
    """Make sure that the file is a whole safetensors file, and the published one where its digest is known.

    file: what it should be; its size is compared always, its content only here and not at every reading.

    Raises:
        WeightsError: it is not; the message says what it is instead.
    """
    try:
        with path.open("rb") as stream:
            _check_content(stream, path, file)
    except OSError as error:
        raise WeightsError(f"The weight file {path} cannot be opened: check that it exists and may be read.") from error


def _check_content(stream: BinaryIO, path: Path, file: WeightFile | None) -> None:
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(32)
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise WeightsError(f"{path} is {what}: delete it, and the published safetensors file is fetched.")
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER):
        raise _damaged(path, "it ends before its header does")
    stream.seek(_LENGTH_BYTES)
    expected = _LENGTH_BYTES + length + _data_length(stream.read(length), path)
    if expected != size:
        raise _damaged(path, f"it has {size} bytes and its header speaks of {expected}")
    if file is not None and file.size not in {None, size}:
        raise _damaged(path, f"it has {size} bytes and the published one has {file.size}")
    if file is not None and file.sha256 is not None and _sha256(stream) != file.sha256:
        raise _damaged(path, "its content differs from the published one")


def _data_length(header: bytes, path: Path) -> int:
    try:
        entries = json.loads(header)
        tensors = [cast("dict[str, Any]", entry) for key, entry in entries.items() if key != "__metadata__"]
        return max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _damaged(path, "its header cannot be read") from error


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"The weight file {path} is damaged ({reason}): delete it, and it is fetched again.")
