"""What the server answers when it cannot do what it is asked: a status and one sentence."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from lib_layerdiffusion.errors import LayerDiffusionError


class FieldError(LayerDiffusionError):
    """A mistake in one field of a request. field: its name, for the line beside it."""

    def __init__(self, sentence: str, field: str) -> None:
        super().__init__(sentence)
        self.field = field


class MissingError(LayerDiffusionError):
    """There is no such run or picture, or not any more."""


class BusyError(LayerDiffusionError):
    """Too many runs are waiting."""


def one_line(error: BaseException) -> str:
    """What an error says as one line for a log; what a stranger has sent cannot begin another one."""
    return "".join(sign if sign.isprintable() else " " for sign in str(error))


@contextmanager
def blaming(field: str) -> Generator[None, None, None]:
    """Say of errors inside which field they are about."""
    try:
        yield
    except FieldError:
        raise
    except LayerDiffusionError as error:
        raise FieldError(str(error), field) from error
