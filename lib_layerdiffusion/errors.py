"""What a user can do wrong, as exceptions whose message is one sentence that says what to do.

Hosts show the message as it stands (page, API response, command line), so a message never holds a traceback,
an internal name or more than a sentence.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager


def is_writable(text: str) -> bool:
    """Whether text can be stored at all: half of a UTF-16 pair, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(text: object) -> str:
    """What somebody wrote, for a message: in double quotes, on one line, and not too long."""
    try:
        shown = str(text)
    except ValueError:  # Python refuses to write whole numbers of thousands of digits
        shown = "a very long number"
    return json.dumps(shown if len(shown) <= 60 else f"{shown[:57]}...", ensure_ascii=not is_writable(shown))


class LayerDiffusionError(Exception):
    """Base of every error that a user can cause and put right.

    Its message is one line that can be written anywhere, whatever was quoted in it.
    """

    def __init__(self, message: object = "") -> None:
        text = " ".join(str(message).splitlines())
        super().__init__(text if is_writable(text) else text.encode(errors="backslashreplace").decode())


class SettingsError(LayerDiffusionError):
    """A value of the settings is unknown, out of range or of the wrong type."""


class InputError(LayerDiffusionError):
    """A picture is missing, unreadable, or of a size that cannot be used."""


class ModelError(LayerDiffusionError):
    """The loaded model does not fit the method: wrong or unsupported family, or quantised beyond patching."""


class WeightsError(LayerDiffusionError):
    """A weight file is missing, cannot be fetched, is damaged, or belongs to another method."""


class StorageError(LayerDiffusionError):
    """A place cannot be written to: the disk is full, the folder is gone or may not be changed."""


class HostError(LayerDiffusionError):
    """The host cannot do what is asked in its present state (an option or another extension stands against it)."""


class MemoryShortageError(LayerDiffusionError):
    """The machine has too little memory for what is asked; the next, smaller thing works."""


_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "insufficient memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out: every device, torch release and library has a kind of its own to say so."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower()
    return isinstance(error, Exception) and any(mark in words for mark in _OUT_OF_MEMORY)


@contextmanager
def within_memory(what: str) -> Generator[None, None, None]:
    """Say in a sentence that memory does not suffice for `what`.

    Raises:
        MemoryShortageError: it does not.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LayerDiffusionError) or not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"There is too little memory for {what}: make it smaller or fewer at once, or free some on the device."
        ) from error
