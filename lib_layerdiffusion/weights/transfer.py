"""The bytes of one address into one file, gone on with where it broke off; never more of them than there are.

The session is huggingface_hub's: of requests in its older releases, of httpx in its newer ones.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

_MAX_ATTEMPTS = 50
_CHUNK = 1 << 17
_REPORT_SECONDS = 0.2
_TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""
_RANGE = re.compile(r"bytes (\d+)-")
_PARTIAL, _NOT_SATISFIABLE, _REFUSED = 206, 416, 400


class Unusable(Exception):  # noqa: N818 - it is what the bytes are
    """What the server sends cannot be part of the file; the message says why, in a few words."""


class Refused(Exception):  # noqa: N818 - it is what the server has done
    """The server answers with an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def bring(url: str, target: Path, size: int | None, report: Callable[[int, int | None], None] | None) -> None:
    """Complete `target`, which may hold the beginning, in as many attempts as bring it further.

    size: bytes of the whole, None where nobody knows. report: told the bytes that are there and `size`.

    Raises:
        Unusable: more bytes came than there are, or others than asked for. OSError: `target` cannot be written.
        Exception: the connection's own errors, once an attempt has brought nothing.
    """
    tell = _Reporter(report, size)
    best = _length(target)
    for attempt in range(_MAX_ATTEMPTS):
        before = _length(target)
        if size is not None and before > size:
            raise Unusable("what an earlier attempt has left is longer than the file")
        if before == size:
            break
        error = _attempt(url, target, before, size, tell)
        there = _length(target)
        if error is None and size in {None, there}:
            break
        # A server that does not know ranges begins anew each time: only what goes further than ever counts.
        if there <= best or attempt == _MAX_ATTEMPTS - 1 or isinstance(error, Refused):
            raise error or Unusable("the server sends less than the whole file")
        best = there
    tell.at_the_end(_length(target))


def _attempt(url: str, target: Path, start: int, size: int | None, tell: _Reporter) -> Exception | None:
    """One request from byte `start` on; what broke it off, None where it ended by itself."""
    try:
        with _answer(url, start) as (status, headers, chunks):
            if status >= _REFUSED and status != _NOT_SATISFIABLE:
                return Refused(status)
            start = _beginning(status, headers.get("content-range") or "", start)
            with target.open("r+b" if target.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                for chunk in chunks:
                    _check_room(file.tell() + len(chunk), size)
                    file.write(chunk)
                    tell(file.tell())
    except (Unusable, KeyboardInterrupt):
        raise
    except Exception as error:
        if is_of_the_disk(error):
            raise
        return error
    return None


def _beginning(status: int, content_range: str, asked: int) -> int:
    """The byte that the answer begins with."""
    if status == _NOT_SATISFIABLE:
        raise Unusable("what an earlier attempt has left does not belong to the file")
    if status != _PARTIAL:
        return 0  # the server does not know ranges and sends everything
    given = _RANGE.match(content_range)
    if given is None or int(given[1]) != asked:
        raise Unusable("the server sends another part than it was asked for")
    return asked


def _check_room(end: int, size: int | None) -> None:
    if size is not None and end > size:
        raise Unusable("the server sends more than the whole file")


@contextlib.contextmanager
def _answer(url: str, start: int) -> Generator[tuple[int, Any, Iterator[bytes]], None, None]:
    from huggingface_hub.utils import build_hf_headers, get_session

    session: Any = get_session()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
            yield response.status_code, response.headers, response.iter_bytes(_CHUNK)
    else:
        with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as response:
            yield response.status_code, response.headers, response.iter_content(_CHUNK)


class _Reporter:
    """Tells how far it is, a few times a second."""

    def __init__(self, report: Callable[[int, int | None], None] | None, size: int | None) -> None:
        self._report, self._size, self._last = report, size, 0.0

    def __call__(self, there: int) -> None:
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            self.at_the_end(there)

    def at_the_end(self, there: int) -> None:
        if self._report is not None:
            self._report(there, self._size)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_OF_THE_DISK = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO}
_KINDS = (
    ("redirect", "the server's answers lead in circles"),
    ("recursion", "the server's answers lead in circles"),
    ("timeout", "the server does not answer in time"),
    ("timed out", "the server does not answer in time"),
    ("certificate", "the server's certificate cannot be verified"),
    ("ssl", "a secure connection cannot be made"),
    ("proxy", "the proxy does not let it through"),
    ("refused", "no connection to the server"),
    ("name or service", "no connection to the server"),
    ("name resolution", "no connection to the server"),
    ("unreachable", "no connection to the server"),
    ("connect", "no connection to the server"),
)


def is_of_the_disk(error: BaseException) -> bool:
    """Whether writing has failed; the errors of connections are OSErrors too."""
    return getattr(error, "errno", None) in _OF_THE_DISK


def reason_of(error: BaseException) -> str:
    """Why a request failed, in a few words, by what is known of it; never a cause that was not looked at."""
    status = error.status if isinstance(error, Refused) else _status(error)
    if status in {401, 403}:
        return "the server wants an access token, which HF_TOKEN can give"
    if status:
        return f"the server answers {status}"
    words = f"{type(error).__name__} {error}".lower()
    if "incomplete" in words or "reset" in words or "aborted" in words or "closed" in words:
        return "the connection broke off"
    known = next((reason for mark, reason in _KINDS if mark in words), None)
    return known or f"the request failed: {type(error).__name__}"


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
