"""Layers on top of each other: foreground over background with offset and scale, and a whole stack to one picture.

Alpha is straight. Colours are blended as sRGB values, which is what image editors do with 8-bit layers, or as linear
light, which is what a camera would see: a soft edge between red and green is dark in the first, bright in the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.arithmetic import Picture8, PictureF, composite, to_float, to_uint8
from lib_layerdiffusion.images.reading import MAX_PIXELS

STRIP_PIXELS = 4_000_000
"""Pixels that are blended at a time: float copies of a 60-megapixel picture would take many gigabytes."""
MAX_SCALE = 100.0


@dataclass(frozen=True, eq=False)
class Layer:
    """A named picture on a canvas.

    picture: uint8 RGBA [H, W, 4], straight alpha. left, top: pixels from the canvas's corner to the picture's, negative
    where the picture begins outside. visible: whether it shows; a hidden one is kept in files and left out of merging.
    """

    name: str
    picture: Picture8
    left: int = 0
    top: int = 0
    visible: bool = True


def check_picture(picture: Picture8, name: str) -> None:
    """Raise InputError unless `picture` is uint8 RGBA [H, W, 4] of at least 1 pixel and at most `MAX_PIXELS`."""
    if picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
        raise InputError(
            f"The {name} picture must be 8-bit RGBA, not of shape {picture.shape} and type {picture.dtype}."
        )
    check_size(picture.shape[0], picture.shape[1], name)


def check_size(height: float, width: float, name: str) -> None:
    """Raise InputError unless height x width pixels are at least 1 by 1 and at most `MAX_PIXELS`."""
    if min(height, width) < 1:
        raise InputError(f"The {name} picture has no pixels: choose another one.")
    if height * width > MAX_PIXELS:
        raise InputError(
            f"The {name} picture would have more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller."
        )


def place(
    foreground: Picture8,
    background: Picture8,
    *,
    left: int = 0,
    top: int = 0,
    scale: float = 1.0,
    linear: bool = False,
) -> Picture8:
    """Foreground, scaled, over background; the result has the background's size and whatever lies outside is cut off.

    foreground, background: uint8 RGBA [H, W, 4], each of its own size. left, top: pixels from the background's corner
    to that of the scaled foreground; may be negative. scale: factor for both sides, above 0 and at most 100. linear:
    blend linear light, not sRGB values. Returns a new uint8 RGBA; where the foreground does not reach, it is the
    background.

    Raises:
        InputError: a picture is not 8-bit RGBA or has more than `MAX_PIXELS` (the foreground also after scaling), or
            the scale is out of range.
    """
    check_picture(background, "background")
    upper = scaled(foreground, scale)
    result = background.copy()
    columns = _overlap(left, upper.shape[1], 0, background.shape[1])
    if columns is None:
        return result
    for start, stop in _strips(background.shape[0], background.shape[1]):
        rows = _overlap(top, upper.shape[0], start, stop)
        if rows is not None:
            here = result[start:stop][rows[0], columns[0]]
            here[:] = composite(upper[rows[1], columns[1]], here, linear=linear)
    return result


def scaled(picture: Picture8, scale: float) -> Picture8:
    """`picture` with both sides times `scale`, resampled with premultiplied colour so that hidden colour stays hidden.

    Area averages when it gets smaller, cubic when it gets larger: unlike Lanczos, its overshoot around an alpha edge is
    wholly below 0 or above 1 and goes away by clipping. A scale of 1 gives back the picture itself.

    Raises:
        InputError: as `place`.
    """
    check_picture(picture, "foreground")
    if not 0 < scale <= MAX_SCALE:
        raise InputError(f"The scale is {scale}: it must be above 0 and at most {MAX_SCALE:g}.")
    check_size(max(1.0, picture.shape[0] * scale), max(1.0, picture.shape[1] * scale), "scaled foreground")
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    if (height, width) == picture.shape[:2]:
        return picture
    values = to_float(picture)
    values[..., :3] *= values[..., 3:]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(values, (width, height), interpolation=method), np.float32)
    resized = resized.reshape(height, width, 4)
    resized[..., :3] /= np.maximum(resized[..., 3:], 1e-8)
    return to_uint8(resized)


def merge(layers: Sequence[Layer], height: int, width: int) -> Picture8:
    """All visible layers over a transparent canvas, the first lowest -> uint8 RGBA [height, width, 4], sRGB blending.

    Rounded once, at the end: a stack of any depth is within half a level of the exact result.

    Raises:
        InputError: the canvas or a layer is not 8-bit RGBA of at most `MAX_PIXELS`.
    """
    check_size(height, width, "merged")
    for layer in layers:
        check_picture(layer.picture, layer.name)
    shown = [layer for layer in layers if layer.visible]
    merged = np.zeros((height, width, 4), np.uint8)
    for start, stop in _strips(height, width):
        merged[start:stop] = to_uint8(_merge_rows(shown, start, stop, width))
    return merged


def _merge_rows(layers: Sequence[Layer], start: int, stop: int, width: int) -> PictureF:
    """Rows `start` to `stop` of the merged picture, float32 [stop - start, width, 4], straight alpha."""
    canvas = np.zeros((stop - start, width, 4), np.float32)
    for layer in layers:
        rows = _overlap(layer.top, layer.picture.shape[0], start, stop)
        columns = _overlap(layer.left, layer.picture.shape[1], 0, width)
        if rows is None or columns is None:
            continue
        upper = to_float(layer.picture[rows[1], columns[1]])
        upper[..., :3] *= upper[..., 3:]
        here = canvas[rows[0], columns[0]]
        here[:] = upper + here * (1.0 - upper[..., 3:])
    canvas[..., :3] /= np.maximum(canvas[..., 3:], 1e-8)
    return canvas


def _overlap(offset: int, length: int, start: int, stop: int) -> tuple[slice, slice] | None:
    """Along one axis: where `length` pixels from `offset` on meet start..stop, in that window and in the picture."""
    low, high = max(offset, start), min(offset + length, stop)
    return (slice(low - start, high - start), slice(low - offset, high - offset)) if low < high else None


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, STRIP_PIXELS // width)
    return ((start, min(start + step, height)) for start in range(0, height, step))


def trimmed(picture: Picture8, margin: int = 0, threshold: int = 0) -> Layer:
    """The part of a picture that is not transparent, as a layer that says where it was.

    picture: uint8 RGBA [H, W, 4]. margin: pixels kept around that part, as far as the picture reaches. threshold: alpha
    up to this value counts as transparent.

    Raises:
        InputError: nothing in the picture is left then, or it is not 8-bit RGBA.
    """
    check_picture(picture, "trimmed")
    solid = picture[..., 3] > threshold
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        raise InputError("Everything in this picture is transparent: there is nothing to trim it to.")
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    bottom, right = int(rows[-1]) + 1 + margin, int(columns[-1]) + 1 + margin
    return Layer("trimmed", picture[top:bottom, left:right].copy(), left, top)
