"""Memory for large activations on a CPU: kept by the process from layer to layer instead of given back each time.

glibc asks the kernel anew for every block above 32 MiB and returns it when it is freed. A map of 32 channels at 512x512
is one, and getting its pages zeroed and mapped again takes longer than a layer's arithmetic: a fifth of the decoder.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache

# Numbers of mallopt's parameters and glibc's own values of them (malloc.h, malloc/malloc.c).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_MAX = 64 << 20, 65536
_LARGEST = 2**31 - 1

_lock = threading.Lock()
_users: list[int] = []
"""One entry for each block of `freed_memory_kept` that is running, in any thread."""


@contextmanager
def freed_memory_kept() -> Generator[None]:
    """While this lasts, freed blocks of any size are used again; afterwards what is free goes back to the system.

    Of the whole process, since that is what there is one allocator of. Does nothing where it is not glibc's.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def give_back() -> None:
    """Return what is free to the system now, where `freed_memory_kept` would keep it until its end.

    Blocks of other sizes than before find no room among those that are kept, and the process grows.
    """
    with _lock:
        if _users:
            _allocator()[1](0)


def _enter() -> None:
    mallopt, _ = _allocator()
    with _lock:
        _users.append(threading.get_ident())
        if len(_users) == 1:
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, _LARGEST)


def _leave() -> None:
    mallopt, trim = _allocator()
    with _lock:
        _users.pop()
        if not _users:
            mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
            mallopt(_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
            trim(0)


@lru_cache(maxsize=1)
def _allocator() -> tuple[Callable[[int, int], object], Callable[[int], object]]:
    """`mallopt` and `malloc_trim` of glibc, or what does nothing."""
    if sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        try:
            return library.mallopt, library.malloc_trim
        except AttributeError:
            pass
    return lambda _name, _value: 0, lambda _padding: 0
