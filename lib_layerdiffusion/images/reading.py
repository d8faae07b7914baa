"""Reading a picture from whatever a page, the API or a script hands over, to uint8 RGBA [H, W, 4].

Nothing here opens a path or an address: a value that comes over the network must not reach the file system.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.decoding import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    Picture,
    check_bytes,
    check_pixels,
    decode_picture,
    rgba_of,
)
from lib_layerdiffusion.images.opacity import without_hidden_text

__all__ = ["MAX_BYTES", "MAX_PIXELS", "Picture", "encode_picture", "picture_hash", "read_picture"]

_CANVAS_KEYS = ("composite", "background", "image")
_CHANNELS_TO_MODE = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_BLANKS_TOO = 1.5
"""Base64 is a third longer than what it encodes, and lines of it end with one or two signs more."""


def read_picture(value: object, name: str) -> Picture | None:
    """The picture in `value` as uint8 RGBA [H, W, 4], or None where there is none (None, "" or an empty canvas).

    value: an 8-bit array or nested list [H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4]; a Pillow image of any
        mode; the bytes of a picture file; base64 with or without a data URI prefix; the dict of a gradio canvas.
    name: what errors call the picture, such as "foreground".

    Alpha of 254 and 255 alone is a text that hosts hide in an opaque picture, and reads as 255.

    Raises:
        InputError: it is unreadable, animated, too small or too large.
    """
    picture = _read(value, name)
    return None if picture is None else without_hidden_text(picture)


def _read(value: object, name: str) -> Picture | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return _from_canvas(cast("Mapping[str, object]", value), name)
    if isinstance(value, str):
        return decode_picture(_decode_base64(value, name), name) if value and not value.isspace() else None
    if isinstance(value, bytes | bytearray | memoryview):
        check_bytes(memoryview(value).nbytes, name)
        return decode_picture(bytes(value), name)
    if isinstance(value, Image.Image):
        return rgba_of(value, name)
    if isinstance(value, np.ndarray | list | tuple):
        return _from_array(cast("Any", value), name)
    raise InputError(f"The {name} picture is of a kind that cannot be read ({type(value).__name__}): send base64.")


def encode_picture(picture: Picture) -> str:
    """A PNG data URI of `picture`; `read_picture` gives back the same values, but for alpha of 254 and 255 alone."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_hash(picture: Picture) -> str:
    """Ten hexadecimal digits that stand for the content (sha256 of size and values), the same on every machine."""
    height, width = picture.shape[:2]
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()[:10]


def _from_canvas(canvas: Mapping[str, object], name: str) -> Picture | None:
    filled = [canvas[key] for key in _CANVAS_KEYS if canvas.get(key) is not None]
    if filled and not isinstance(filled[0], Mapping):  # a canvas inside a canvas could go on without end
        return _read(filled[0], name)
    if filled or (canvas and not any(key in canvas for key in _CANVAS_KEYS)):
        raise InputError(f'The {name} picture is an object without an "image": send the picture itself as base64.')
    return None


def _decode_base64(text: str, name: str) -> bytes:
    check_bytes(int(len(text) / _BLANKS_TOO), name)
    payload = text.strip()
    if payload.startswith("data:"):
        payload = payload.partition(",")[2]
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"The {name} picture is not base64: send the encoded content of a picture file; "
            "names of files and addresses are not opened."
        ) from error


def _from_array(value: Any, name: str) -> Picture:
    _check_list(value, name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"The {name} picture is a list whose rows differ in length: send it as base64.") from error
    if array.size == 0:
        raise InputError(f"The {name} picture is empty: choose it again.")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in {2, 3} or channels not in _CHANNELS_TO_MODE:
        shape = " x ".join(map(str, array.shape))
        raise InputError(f"The {name} picture is an array of {shape}: it must be height x width x 1, 2, 3 or 4.")
    check_pixels(array.shape[0], array.shape[1], name)
    if array.dtype != np.uint8:
        array = _eight_bit(array, name)
    if channels == 4:
        return array
    grey = array.reshape(array.shape[0], array.shape[1], channels)
    return np.array(
        Image.fromarray(grey[..., 0] if channels == 1 else grey, _CHANNELS_TO_MODE[channels]).convert("RGBA")
    )


def _check_list(value: Any, name: str) -> None:
    """A list's size, before an array is made of it."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        check_pixels(max(len(cast("Any", value)), MIN_SIDE), max(len(cast("Any", value[0])), MIN_SIDE), name)


def _eight_bit(array: NDArray[Any], name: str) -> Picture:
    error = InputError(f"The {name} picture must hold whole numbers from 0 to 255: convert it to 8 bits.")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise error
    values = array.astype(np.float64)
    if values.min() < 0 or values.max() > 255 or (values != np.floor(values)).any():
        raise error
    return values.astype(np.uint8)
