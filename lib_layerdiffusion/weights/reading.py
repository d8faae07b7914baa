"""Reading a safetensors file, and refusing everything else before a byte of it is believed.

The format: eight bytes with the length of the header, a JSON header with each tensor's place, then the tensors without
gaps (safetensors documentation, "Format").
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError  # pyright: ignore[reportAttributeAccessIssue] - of the compiled part
from safetensors.torch import load, load_file
from torch import Tensor

from lib_layerdiffusion.errors import WeightsError, quoted
from lib_layerdiffusion.networks.numbers import broken_numbers
from lib_layerdiffusion.weights.catalogue import WeightFile

GET_AGAIN = "get it again or choose another file"
"""What to do about a file that somebody has named; nobody is told to delete a file of their own."""
FETCH_AGAIN = "delete it, and it is fetched again"
"""What to do about a published file in a folder that files are fetched to."""
_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
_CHUNK = 1 << 22
_PICKLE = "a pickled checkpoint, which can run programs when it is opened"
_FOREIGN = (
    (b"PK\x03\x04", _PICKLE),
    *((bytes([0x80, version]), _PICKLE) for version in range(2, 6)),
    (b"version https://git-lfs", "a pointer of git-lfs instead of the file itself"),
    (b"<", "a web page instead of the file itself"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"RIFF", "a picture"),
    (b"GIF8", "a picture"),
)
UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
"""What safetensors and torch raise for headers that are not true and for number types that they do not have."""


def read_weights(path: Path, remedy: str = GET_AGAIN) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory.

    remedy: what to do about a file that cannot be used, for the message.

    Raises:
        WeightsError: the file is missing, damaged, no safetensors file, or holds what are no weights.
    """
    check_file(path, remedy=remedy)
    try:
        state = load_file(path, device="cpu")
        _check_numbers(state, path, remedy)
    except UNREADABLE as error:
        raise WeightsError(f"{path} is damaged (its tensors cannot be read): {remedy}.") from error
    return state


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file in memory, whatever they hold.

    Raises:
        WeightsError: it is damaged or no safetensors file.
    """
    try:
        filled, empty = _empty_aside(content)
        return load(filled) | empty
    except UNREADABLE as error:
        raise WeightsError(f"The content is no whole safetensors file: {GET_AGAIN}.") from error


def _empty_aside(content: bytes) -> tuple[bytes, dict[str, Tensor]]:
    """The file without tensors that hold nothing, which safetensors cannot load from memory, and those tensors."""
    size = int.from_bytes(content[:8], "little")
    try:
        header: dict[str, Any] = json.loads(content[8 : 8 + size])
        empty = {name: torch.zeros(entry["shape"]) for name, entry in header.items() if 0 in entry.get("shape", ())}
    except (
        ValueError,
        AttributeError,
        TypeError,
        RuntimeError,
        RecursionError,
    ):  # told of where the tensors are loaded
        return content, {}
    if not empty:
        return content, {}
    text = json.dumps({name: entry for name, entry in header.items() if name not in empty}).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :], empty


def _check_numbers(state: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    wrong = next((key for key, tensor in state.items() if not tensor.is_floating_point()), None)
    if wrong is not None:
        kind = str(state[wrong].dtype).removeprefix("torch.")
        raise WeightsError(f"{path} is broken ({quoted(wrong)} is of type {kind}, not floating-point): {remedy}.")
    problem = broken_numbers(state.items())
    if problem:
        raise WeightsError(f"{path} is broken ({problem}): {remedy}.")


def check_file(path: Path, file: WeightFile | None = None, *, remedy: str = FETCH_AGAIN) -> None:
    """Make sure that the file is a whole safetensors file, and the published one where its digest is known.

    file: what it should be; its size is compared always, its content only here and not at every reading, and only
    where its digest holds for every revision. remedy: as in `read_weights`.

    Raises:
        WeightsError: it is not; the message says what it is instead.
    """
    try:
        with path.open("rb") as stream:
            problem = _foreign_or_cut(stream) or _not_published(stream, file)
    except OSError as error:
        raise WeightsError(f"The weight file {path} cannot be opened: check that it exists and may be read.") from error
    if problem:
        raise WeightsError(f"{path} {problem}: {remedy}.")


def differs(path: Path, digest: str) -> bool:
    """Whether the content is another one than that with this sha256."""
    with path.open("rb") as stream:
        return _sha256(stream) != digest


def _foreign_or_cut(stream: BinaryIO) -> str:
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(32)
    foreign = next((what for magic, what in _FOREIGN if start.startswith(magic)), "")
    if foreign:
        return f"is {foreign}"
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER):
        return "is damaged (it ends before its header does)"
    stream.seek(_LENGTH_BYTES)
    data = _data_length(stream.read(length))
    if data is None:
        return "is damaged (its header cannot be read)"
    expected = _LENGTH_BYTES + length + data
    if expected != size:
        return f"is damaged (it has {size} bytes and its header speaks of {quoted(expected)[1:-1]})"
    return ""


def _not_published(stream: BinaryIO, file: WeightFile | None) -> str:
    if file is None:
        return ""
    size = os.fstat(stream.fileno()).st_size
    if file.size not in {None, size}:
        return f"is damaged (it has {size} bytes and the published one has {file.size})"
    if file.sha256 is not None and not file.sha256_revision and _sha256(stream) != file.sha256:
        return "is damaged (its content differs from the published one)"
    return ""


def _data_length(header: bytes) -> int | None:
    """Bytes of all tensors, None where the header is none."""
    try:
        entries = cast("Mapping[str, Any]", json.loads(header))
        tensors = [cast("Mapping[str, Any]", entry) for key, entry in entries.items() if key != "__metadata__"]
        ends = [entry["data_offsets"][1] for entry in tensors]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return max(ends, default=0) if all(type(end) is int and end >= 0 for end in ends) else None


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
