"""Fetching a published file: resumed, locked, compared, and under its final name only when it is whole.

huggingface_hub says where a file is, what its content's sha256 is, and which session and token to use, so its switches
hold (HF_ENDPOINT for mirrors, HF_HUB_OFFLINE, HF_TOKEN); it is loaded on first use. The bytes are taken here: its own
download appends whatever a server sends that does not know ranges, and its releases differ in what they resume.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.weights.catalogue import WeightFile
from lib_layerdiffusion.weights.reading import check_file, differs
from lib_layerdiffusion.weights.transfer import Unusable, bring, is_of_the_disk, reason_of

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are there and the bytes that there will be, None where the server does not say."""

_BEGINNINGS = 2
"""What is not right is thrown away and begun again once."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ON = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True)
class _Published:
    """What the hub says of a file. sha256: of its content, None where the server does not name it."""

    url: str
    size: int | None
    sha256: str | None


def fetch(file: WeightFile, folder: Path, *, progress: Progress | None = None, endpoint: str | None = None) -> Path:
    """Fetch `file` to `folder`, unless it lies there; what an earlier attempt has left is gone on with.

    progress: called a few times a second. endpoint: address of a mirror, in place of HF_ENDPOINT.

    Raises:
        WeightsError: it cannot be fetched; the message says the file, the folder and the address, so that it can be put
            there by hand. Nothing lies under the final name then, and never more than one file's size beside it.
    """
    target = folder / file.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{file.name}.lock"):
            if not target.is_file():
                _partial_of(file, folder, progress, endpoint).replace(target)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else "the folder cannot be written to"
        raise _failure(file, folder, reason, endpoint) from error
    return target


def find_in_cache(file: WeightFile) -> Path | None:
    """Where `file` lies in the cache that programs with huggingface_hub share, None where it does not."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(file.repository, file.file_name, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def address(file: WeightFile, endpoint: str | None = None) -> str:
    """Where a browser finds `file`."""
    try:
        from huggingface_hub import hf_hub_url
    except ImportError:
        return f"{file.repository}/{file.file_name}"
    return hf_hub_url(file.repository, file.file_name, revision=file.revision, endpoint=_endpoint(endpoint))


def _endpoint(endpoint: str | None) -> str | None:
    # huggingface_hub reads its variables when it is imported, which another extension may have done long ago.
    return (endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return os.environ.get("HF_HUB_OFFLINE", "").lower() in _ON or bool(constants.HF_HUB_OFFLINE)


def _partial_of(file: WeightFile, folder: Path, progress: Progress | None, endpoint: str | None) -> Path:
    """The whole content beside its final name.

    Raises:
        WeightsError: it cannot be had, or what the server sends is another content.
    """
    shutil.rmtree(folder / f".{file.name}.download", ignore_errors=True)  # where earlier releases kept theirs
    published = _published(file, folder, endpoint)
    partial = folder / f".{file.name}.part"
    if published.sha256 is None:  # nobody could tell whether what is left is of the same content
        partial.unlink(missing_ok=True)
    _require_room(file, folder, partial, published.size, endpoint)
    problem = ""
    for _ in range(_BEGINNINGS):
        try:
            bring(published.url, partial, published.size, progress)
            problem = _problem(partial, file, published)
        except Unusable as error:
            problem = str(error)
        except Exception as error:  # of requests or of httpx, as huggingface_hub's version has it
            if is_of_the_disk(error):
                raise
            raise _failure(file, folder, reason_of(error), endpoint) from error
        if not problem:
            return partial
        partial.unlink(missing_ok=True)
    raise _failure(file, folder, problem, endpoint)


def _published(file: WeightFile, folder: Path, endpoint: str | None) -> _Published:
    try:
        from huggingface_hub import get_hf_file_metadata
    except ImportError as error:
        raise _failure(file, folder, "huggingface_hub is not installed", endpoint) from error
    if _is_offline():
        raise _failure(file, folder, "HF_HUB_OFFLINE forbids it", endpoint)
    url = address(file, endpoint)
    try:
        told: Any = get_hf_file_metadata(url)
    except Exception as error:  # of requests or of httpx, as huggingface_hub's version has it
        raise _failure(file, folder, reason_of(error), endpoint) from error
    etag = str(told.etag or "").lower()
    digest = etag if _SHA256.fullmatch(etag) else file.digest_of(told.commit_hash)
    return _Published(url, told.size or file.size, digest)


def _problem(partial: Path, file: WeightFile, published: _Published) -> str:
    try:
        check_file(partial, file)
    except WeightsError:
        return "what the server sent is not the published file"
    if published.sha256 is not None and differs(partial, published.sha256):
        return "what the server sent is not the published file: its content has another sha256"
    return ""


def _require_room(file: WeightFile, folder: Path, partial: Path, total: int | None, endpoint: str | None) -> None:
    if total is None:
        return
    there = partial.stat().st_size if partial.is_file() else 0
    wanted, free = total - there, shutil.disk_usage(folder).free
    if wanted > free:
        raise _failure(file, folder, f"it needs {wanted >> 20} MiB and the disk has {free >> 20} MiB left", endpoint)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    """One process at a time; file systems without locks have to do without."""
    try:
        from filelock import FileLock
    except ImportError:
        yield
        return
    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # Windows, while another process waits for it
            path.unlink()


def _failure(file: WeightFile, folder: Path, reason: str, endpoint: str | None) -> WeightsError:
    return WeightsError(
        f"{file.file_name} could not be fetched ({reason}): download it from {address(file, endpoint)} "
        f"and put it into {folder}."
    )
