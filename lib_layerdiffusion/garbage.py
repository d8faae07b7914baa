"""When Python looks for garbage: not while libraries are loaded."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def nothing_collected() -> Generator[None, None, None]:
    """While modules are loaded, a million objects come to stay: looking through them time and again takes a second."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
