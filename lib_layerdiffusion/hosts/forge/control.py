"""Stopping a run with a message, and putting functions of the host's back where they were.

Forge reports exceptions of hooks on its console and generates on, so an error has to come from a function that it calls
itself. Such functions are replaced on one processing object only, never on its class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, update_wrapper
from typing import Any

from fastapi import HTTPException

from lib_layerdiffusion.errors import LayerDiffusionError, within_memory

_VERBS = ("init", "setup_conds", "sample", "save_samples", "get_token_merging_ratio")
"""What the host calls on `p` outside of hooks: before, between and after sampling."""
_SAMPLER_VERBS = ("sample", "sample_img2img")
_MARK = "extended_by_layerdiffusion"


def extend(owner: Any, name: str, extended: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `extended(own)` in the place of a function of the host's modules or classes, for good; twice is once."""
    own = getattr(owner, name)
    if not getattr(own, _MARK, False):
        function = update_wrapper(extended(own), own)
        setattr(function, _MARK, True)
        setattr(owner, name, function)


class Replacement:
    """A function that stands on one object in place of the object's own, which it may call as `original`."""

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self.original = getattr(owner, name)
        self._shadowed = vars(owner).get(name)
        self._function = function
        self._owner, self._name = owner, name
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called by the host as the function that it replaces."""
        return self._function(self.original, *args, **kwargs)

    def restore(self) -> None:
        """Put the object's own function back; twice is harmless."""
        if vars(self._owner).get(self._name) is self:
            self.uncover(self._owner)

    def uncover(self, holder: Any) -> None:
        """Put what this replaced on `holder`, the object or a shallow copy that inherited the replacement."""
        if self._shadowed is None:
            delattr(holder, self._name)
        else:
            setattr(holder, self._name, self._shadowed)


def restore(p: Any) -> None:
    """Take every replacement off `p`, also those that a shallow copy of `p` inherited."""
    for name in _VERBS:
        while isinstance(held := vars(p).get(name), Replacement):
            held.uncover(p)


@cache
def _answered(kind: type[LayerDiffusionError]) -> type[LayerDiffusionError]:
    """The same kind of error as one that FastAPI answers by itself; pages show its sentence as before."""
    own = {"__str__": Exception.__str__, "__repr__": Exception.__repr__, "__module__": kind.__module__}
    return type(kind.__name__, (kind, HTTPException), own)


def let_api_answer(error: LayerDiffusionError) -> None:
    """Let the host's API answer with the sentence and 422, once this error is raised.

    Hosts answer any exception with the status and the detail that it carries; but on older ones what is no
    `HTTPException` comes out of their middleware as a group of exceptions that says nothing.
    """
    if not isinstance(error, HTTPException):
        error.__class__ = _answered(type(error))
    vars(error).update(status_code=422, detail=str(error), headers=None)


def stop(p: Any, error: BaseException) -> None:
    """Let the next thing that the host does with `p` raise `error`, so that page and API show it."""
    if isinstance(error, LayerDiffusionError):
        let_api_answer(error)

    def fail(_original: Callable[..., Any], *_args: Any, **_kwargs: Any) -> Any:
        raise error

    for name in _VERBS:
        Replacement(p, name, fail)
    sampler = getattr(p, "sampler", None)
    if sampler is not None:
        for name in _SAMPLER_VERBS:
            Replacement(sampler, name, fail)


@contextmanager
def stopping(p: Any) -> Iterator[None]:
    """Guard a hook: whatever goes wrong in it ends the run instead of giving a picture that is silently wrong."""
    try:
        with within_memory("this picture"):
            yield
    except Exception as error:  # noqa: BLE001  # the host would swallow it; it is raised again by the next verb
        stop(p, error)
