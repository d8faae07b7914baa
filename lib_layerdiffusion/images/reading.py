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
from PIL import Image, ImageOps

from lib_layerdiffusion.errors import InputError

Picture = NDArray[np.uint8]
"""uint8 RGBA [H, W, 4], straight colour."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded; none that can be generated comes near it."""
MIN_SIDE = 2
_CANVAS_KEYS = ("composite", "background", "image")
_CHANNELS_TO_MODE = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError)
"""What Pillow's decoders raise for damaged data."""


def read_picture(value: object, name: str) -> Picture | None:
    """The picture in `value` as uint8 RGBA [H, W, 4], or None where there is none (None, "" or an empty canvas).

    value: an 8-bit array or nested list [H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4]; a Pillow image of any
        mode; the bytes of a picture file; base64 with or without a data URI prefix; the dict of a gradio canvas.
    name: what errors call the picture, such as "foreground".

    Raises:
        InputError: it is unreadable, animated, too small or too large.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return _from_canvas(cast("Mapping[str, object]", value), name)
    if isinstance(value, str):
        return _from_bytes(_decode_base64(value, name), name) if value.strip() else None
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(bytes(value), name)
    if isinstance(value, Image.Image):
        return _from_image(value, name)
    if isinstance(value, np.ndarray | list | tuple):
        return _from_array(cast("Any", value), name)
    raise InputError(f"The {name} picture is of a kind that cannot be read ({type(value).__name__}): send base64.")


def encode_picture(picture: Picture) -> str:
    """A PNG data URI of `picture`; `read_picture` gives back the very same values."""
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
    for key in _CANVAS_KEYS:
        if canvas.get(key) is not None:
            return read_picture(canvas[key], name)
    if canvas and not any(key in canvas for key in _CANVAS_KEYS):
        raise InputError(f'The {name} picture is an object without an "image": send the picture itself as base64.')
    return None


def _decode_base64(text: str, name: str) -> bytes:
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


def _from_bytes(content: bytes, name: str) -> Picture:
    if not content:
        raise InputError(f"The {name} picture is empty (0 bytes): choose it again.")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _from_image(image, name)
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except _UNREADABLE as error:
        raise InputError(f"The {name} picture cannot be read: save it as PNG and choose it again.") from error


def _from_image(image: Image.Image, name: str) -> Picture:
    _check_size(image.height, image.width, name)
    # Phones write a second picture into their JPEGs (MPO); only its first one is meant.
    if getattr(image, "is_animated", False) and str(image.format) != "MPO":
        raise InputError(f"The {name} picture is animated: save one frame of it as PNG and choose that.")
    try:
        upright = ImageOps.exif_transpose(image) or image
        return np.array(_to_rgba(upright), dtype=np.uint8)
    except _UNREADABLE as error:
        raise InputError(f"The {name} picture cannot be read: save it as 8-bit PNG and choose it again.") from error


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("more than 16 bits")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating point")
    elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    return image.convert("RGBA")


def _from_array(value: Any, name: str) -> Picture:
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
    _check_size(array.shape[0], array.shape[1], name)
    if array.dtype != np.uint8:
        array = _eight_bit(array, name)
    if channels == 4:
        return array
    grey = array.reshape(array.shape[0], array.shape[1], channels)
    return np.array(
        Image.fromarray(grey[..., 0] if channels == 1 else grey, _CHANNELS_TO_MODE[channels]).convert("RGBA")
    )


def _eight_bit(array: NDArray[Any], name: str) -> Picture:
    error = InputError(f"The {name} picture must hold whole numbers from 0 to 255: convert it to 8 bits.")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise error
    values = array.astype(np.float64)
    if values.min() < 0 or values.max() > 255 or (values != np.floor(values)).any():
        raise error
    return values.astype(np.uint8)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large(name)
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"The {name} picture is {width}x{height} pixels: it must have at least {MIN_SIDE} in either direction."
        )


def _too_large(name: str) -> InputError:
    return InputError(f"The {name} picture has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller.")
