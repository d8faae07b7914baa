"""Fetching a published file: resumed, locked, and under its final name only when it is whole.

huggingface_hub does the talking, so its switches hold (HF_ENDPOINT for mirrors, HF_HUB_OFFLINE, HF_TOKEN); it is loaded
on first use. Every release of it takes up a connection that breaks; a download that was given up is gone on with by the
releases that keep what came of it, as Forge's does.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import shutil
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.weights.catalogue import WeightFile
from lib_layerdiffusion.weights.reading import check_file

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are there and the bytes that there will be, None where the server does not say."""

_MAX_ATTEMPTS = 50
_POLL_SECONDS = 0.2
_ON = frozenset({"1", "true", "yes", "on"})


def fetch(file: WeightFile, folder: Path, *, progress: Progress | None = None, endpoint: str | None = None) -> Path:
    """Fetch `file` to `folder`, unless it lies there; what an earlier attempt has left is gone on with.

    progress: called a few times a second from another thread. endpoint: address of a mirror, in place of HF_ENDPOINT.

    Raises:
        WeightsError: it cannot be fetched; the message says the file, the folder and the address, so that it can be put
            there by hand. Nothing lies under the final name then.
    """
    target = folder / file.file_name
    staging = folder / f".{file.name}.download"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{file.name}.lock"):
            if not target.is_file():
                staged = _download(file, staging, folder, progress, endpoint)
                _check(staged, file, folder, endpoint)
                staged.replace(target)
                shutil.rmtree(staging, ignore_errors=True)
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


def _download(file: WeightFile, staging: Path, folder: Path, progress: Progress | None, endpoint: str | None) -> Path:
    """One file into `staging`, in as many attempts as bring it further."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise _failure(file, folder, "huggingface_hub is not installed", endpoint) from error
    if _is_offline():
        raise _failure(file, folder, "HF_HUB_OFFLINE forbids it", endpoint)
    total = _published_size(file, folder, endpoint)
    _require_room(file, folder, staging, total, endpoint)
    staging.mkdir(exist_ok=True)
    with _reported(staging, total, progress):
        for attempt in range(_MAX_ATTEMPTS):
            before = _bytes_in(staging)
            try:
                path = hf_hub_download(
                    file.repository,
                    file.file_name,
                    revision=file.revision,
                    local_dir=staging,
                    endpoint=_endpoint(endpoint),
                )
            except Exception as error:  # of requests or of httpx, as huggingface_hub's version has it
                if _is_final(error) or _bytes_in(staging) <= before or attempt == _MAX_ATTEMPTS - 1:
                    raise _failure(file, folder, _reason(error), endpoint) from error
            else:
                return Path(path)
    raise _failure(file, folder, "the connection broke too often", endpoint)


def _check(staged: Path, file: WeightFile, folder: Path, endpoint: str | None) -> None:
    try:
        check_file(staged, file)
    except WeightsError as error:
        shutil.rmtree(staged.parent, ignore_errors=True)  # or the next attempt would take it for whole
        raise _failure(file, folder, "what the server sent is not the published file", endpoint) from error


def _published_size(file: WeightFile, folder: Path, endpoint: str | None) -> int | None:
    from huggingface_hub import get_hf_file_metadata

    try:
        return get_hf_file_metadata(address(file, endpoint)).size or file.size
    except Exception as error:
        raise _failure(file, folder, _reason(error), endpoint) from error


def _require_room(file: WeightFile, folder: Path, staging: Path, total: int | None, endpoint: str | None) -> None:
    if total is None:
        return
    wanted, free = total - _bytes_in(staging), shutil.disk_usage(folder).free
    if wanted > free:
        raise _failure(file, folder, f"it needs {wanted >> 20} MiB and the disk has {free >> 20} MiB left", endpoint)


def _bytes_in(staging: Path) -> int:
    total = 0
    for path in staging.rglob("*"):
        with contextlib.suppress(OSError):  # renamed in this moment
            total += path.stat().st_size if path.is_file() and path.suffix in {".incomplete", ".safetensors"} else 0
    return total


@contextlib.contextmanager
def _reported(staging: Path, total: int | None, progress: Progress | None) -> Generator[None, None, None]:
    """Tell `progress` how far the download is: no release of huggingface_hub has a call-back that all have."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            progress(_bytes_in(staging), total)

    # The context goes along for pages, which tell by it whose progress this is.
    watcher = threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(_bytes_in(staging), total)


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


def _is_final(error: Exception) -> bool:
    return _status(error) in {401, 403, 404} or getattr(error, "errno", None) in {errno.ENOSPC, errno.EACCES}


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC:
        return "the disk is full"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "the folder cannot be written to"
    status = _status(error)
    if status in {401, 403}:
        return "the server wants an access token, which HF_TOKEN can give"
    return f"the server answers {status}" if status else "no connection to the server"


def _failure(file: WeightFile, folder: Path, reason: str, endpoint: str | None) -> WeightsError:
    return WeightsError(
        f"{file.file_name} could not be fetched ({reason}): download it from {address(file, endpoint)} "
        f"and put it into {folder}."
    )
