"""RGBA arithmetic: flatten, pad colour, resize, composite, preview.

Pictures are numpy [H, W, C], sRGB, straight alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.errors import InputError

Picture8 = NDArray[np.uint8]
PictureF = NDArray[np.float32]

PYRAMID_STEP = 1.2
CHECKER_CELL = 64
CHECKER_GREYS = (0.45, 0.55)
MID_GREY = 127
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)
"""`to_float` of every byte."""


class ResizeMode(str, Enum):
    """How a condition picture is brought to the size of the generated one; values are those of the page."""

    JUST_RESIZE = "Just Resize"
    CROP_AND_RESIZE = "Crop and Resize"
    RESIZE_AND_FILL = "Resize and Fill"

    __str__ = str.__str__


def to_float(picture: Picture8) -> PictureF:
    """uint8 0..255 -> float32 0..1."""
    return picture.astype(np.float32) / 255.0


def to_uint8(picture: NDArray[Any]) -> Picture8:
    """Float 0..1 -> uint8 0..255, rounded and clipped."""
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)


def need_rgba(rgba: Picture8) -> None:
    """Raise InputError unless `rgba` is uint8 [H, W, 4]."""
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise InputError(f"An 8-bit RGBA picture is needed, not one of shape {rgba.shape} and type {rgba.dtype}.")


def flatten_for_condition(rgba: Picture8) -> PictureF:
    """uint8 [H, W, 4] -> float32 [H, W, 3] in [0, 1] on mid-grey: `0.5 + (rgb - 0.5) * alpha`."""
    need_rgba(rgba)
    grey = np.float32(0.5)
    colour, alpha = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), cv2.extractChannel(rgba, 3)
    # A photograph has a few million pixels: one pass over it where it is opaque, few where it is not.
    if alpha.min() == 255:
        return _looked_up(colour, grey + (_LEVELS - grey))
    flat = _looked_up(colour, _LEVELS - grey)
    cv2.multiply(flat, cv2.cvtColor(_looked_up(alpha, _LEVELS), cv2.COLOR_GRAY2RGB), dst=flat)
    return np.add(flat, grey, out=flat)


def _looked_up(picture: NDArray[Any], values: PictureF) -> PictureF:
    """What each byte of a picture stands for in a table of 256."""
    return np.asarray(cv2.LUT(picture, values), np.float32)


def flatten_on_grey(rgba: Picture8) -> Picture8:
    """uint8 [H, W, 4] -> uint8 [H, W, 3] on grey (127, 127, 127): the picture that the VAE sees in image-to-image."""
    need_rgba(rgba)
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return np.rint(MID_GREY + (rgba[..., :3].astype(np.float32) - MID_GREY) * alpha).astype(np.uint8)


def _resize(picture: PictureF, height: int, width: int) -> PictureF:
    """Area when the picture gets smaller, Lanczos-4 when it gets larger, by comparing areas."""
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    return np.asarray(resized, dtype=np.float32)


def _just_resize(picture: PictureF, height: int, width: int) -> PictureF:
    return _resize(picture, height, width)


def _scaled(picture: PictureF, factor: float) -> PictureF:
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return _resize(picture, height, width)


def _crop_and_resize(picture: PictureF, height: int, width: int) -> PictureF:
    scaled = _scaled(picture, max(height / picture.shape[0], width / picture.shape[1]))
    top, left = max(0, (scaled.shape[0] - height) // 2), max(0, (scaled.shape[1] - width) // 2)
    return scaled[top : top + height, left : left + width]


def _resize_and_fill(picture: PictureF, height: int, width: int) -> PictureF:
    """Fit the whole picture in; the rest takes the per-channel median of the four borders."""
    borders = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    filled = np.empty((height, width, picture.shape[2]), np.float32)
    filled[:] = np.median(borders, axis=0)
    scaled = _scaled(picture, min(height / picture.shape[0], width / picture.shape[1]))
    top, left = max(0, (height - scaled.shape[0]) // 2), max(0, (width - scaled.shape[1]) // 2)
    filled[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return filled


_RESIZERS: Mapping[ResizeMode, Callable[[PictureF, int, int], PictureF]] = {
    ResizeMode.JUST_RESIZE: _just_resize,
    ResizeMode.CROP_AND_RESIZE: _crop_and_resize,
    ResizeMode.RESIZE_AND_FILL: _resize_and_fill,
}


def condition_image(rgba: Picture8, mode: ResizeMode, height: int, width: int) -> PictureF:
    """A condition picture as the methods take it: flattened on mid-grey, then resized.

    rgba: uint8 [H, W, 4]. Returns float32 [height, width, 3], 0 to 1 but for the overshoot of Lanczos at hard edges,
    which the published weights were used with.

    Raises:
        InputError: the picture is not 8-bit RGBA, or smaller than 2x2.
    """
    need_rgba(rgba)
    if min(rgba.shape[:2]) < 2:
        raise InputError("The condition picture has only one row or column: use a larger one.")
    resized = _RESIZERS[mode](flatten_for_condition(rgba), height, width)
    return np.ascontiguousarray(resized)


def fitted(rgba: Picture8, mode: ResizeMode, height: int, width: int) -> Picture8:
    """A picture in the place and size that `condition_image` gives it, alpha kept: uint8 [height, width, 4].

    rgba: uint8 [H, W, 4]; resampled premultiplied, so that hidden colour stays hidden. One of that size is returned as
    it is.

    Raises:
        InputError: the picture is not 8-bit RGBA.
    """
    need_rgba(rgba)
    if rgba.shape[:2] == (height, width):
        return rgba
    values = to_float(rgba)
    values[..., :3] *= values[..., 3:]
    resized = np.clip(_RESIZERS[mode](values, height, width), 0.0, 1.0)
    resized[..., :3] /= np.maximum(resized[..., 3:], 1e-8)
    return to_uint8(resized)


def pad_rgb(rgba: Picture8) -> PictureF:
    """Continue colour under alpha 0, so that no edge of a hidden colour shows in the encoder (paper section 3.1).

    A pyramid of premultiplied colour and alpha, each level 1.2 times smaller, is laid back over its mean colour from
    the smallest level up. rgba: uint8 [H, W, 4]. Returns float32 [H, W, 3] in [0, 1]; black where all alpha is 0.
    """
    need_rgba(rgba)
    # Channel by channel, with room for one colour: asking the kernel for four takes as long as the arithmetic.
    alphas, colours, opaque, grown = _pyramid_room(*rgba.shape[:2])
    _channel(rgba, 3, opaque)
    alphas[0][:] = opaque
    _shrink(alphas)
    total = max(float(alphas[-1].sum()), 1e-8)
    for alpha in alphas:
        np.subtract(np.float32(1), alpha, out=alpha)
    padded = np.empty((*rgba.shape[:2], 3), np.float32)
    for channel in range(3):
        _channel(rgba, channel, colours[0])
        cv2.multiply(colours[0], opaque, dst=colours[0])
        _shrink(colours)
        below = np.full((1, 1), colours[-1].sum() / total, np.float32)
        for plane, clear in zip(reversed(colours), reversed(alphas), strict=True):
            larger = grown[: plane.size].reshape(plane.shape)
            cv2.resize(below, plane.shape[::-1], dst=larger, interpolation=cv2.INTER_LINEAR)
            cv2.accumulateProduct(larger, clear, plane)
            below = plane
        cv2.insertChannel(below, padded, channel)
    return padded


def _channel(rgba: Picture8, channel: int, target: PictureF) -> None:
    """Write one channel to `target`, from 0 to 1."""
    cv2.LUT(cv2.extractChannel(rgba, channel), _LEVELS, dst=target)


def _shrink(levels: list[PictureF]) -> None:
    """Fill every level from the one before it."""
    for larger, smaller in pairwise(levels):
        cv2.resize(larger, smaller.shape[::-1], dst=smaller, interpolation=cv2.INTER_AREA)


def _pyramid_room(height: int, width: int) -> tuple[list[PictureF], list[PictureF], PictureF, PictureF]:
    """Room for two pyramids of one channel, a plane of the largest size and as many numbers, in one piece."""
    sizes = [(height, width)]
    while min(sizes[-1]) > 1:
        rows, columns = sizes[-1]
        sizes.append((int(rows / PYRAMID_STEP), int(columns / PYRAMID_STEP)))
    shapes = [*sizes, *sizes, sizes[0], sizes[0]]
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    pieces = np.split(np.empty(ends[-1], np.float32), ends[:-1])
    planes = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return planes[: len(sizes)], planes[len(sizes) : -2], planes[-2], pieces[-1]


def checkerboard(height: int, width: int) -> PictureF:
    """float32 [height, width, 1]: cells of 64 pixels, grey 0.45 and 0.55."""
    rows, columns = np.arange(height) // CHECKER_CELL, np.arange(width) // CHECKER_CELL
    odd = (rows[:, None] + columns[None]) % 2
    return np.where(odd, CHECKER_GREYS[1], CHECKER_GREYS[0]).astype(np.float32)[..., None]


PREVIEW_BACKGROUNDS: Mapping[str, Callable[[int, int], PictureF]] = {
    "checkerboard": checkerboard,
    "light": lambda height, width: np.full((height, width, 1), 1.0, np.float32),
    "dark": lambda height, width: np.full((height, width, 1), 0.1, np.float32),
}


def preview(rgba: Picture8, background: str = "checkerboard") -> Picture8:
    """uint8 [H, W, 4] over a background that shows transparency -> uint8 [H, W, 3]."""
    need_rgba(rgba)
    return over_background(to_float(rgba), background)


def over_background(rgba: PictureF, background: str = "checkerboard") -> Picture8:
    """As `preview`, of a picture that is not rounded yet: float32 [H, W, 4] in [0, 1]."""
    below = PREVIEW_BACKGROUNDS[background](*rgba.shape[:2])
    return to_uint8(rgba[..., :3] * rgba[..., 3:] + below * (1.0 - rgba[..., 3:]))


def composite(foreground: Picture8, background: Picture8, *, linear: bool = False) -> Picture8:
    """Foreground over background, both uint8 [H, W, 4] of one size -> uint8 [H, W, 4], straight alpha.

    Blends sRGB values as image editors do; with `linear`, blends linear light.

    Raises:
        InputError: the sizes differ.
    """
    need_rgba(foreground)
    need_rgba(background)
    if foreground.shape != background.shape:
        raise InputError("The pictures to put on top of each other must have one size.")
    upper, lower = to_float(foreground), to_float(background)
    upper_rgb, lower_rgb = (_to_linear(x[..., :3]) if linear else x[..., :3] for x in (upper, lower))
    upper_a, lower_a = upper[..., 3:], lower[..., 3:]
    alpha = upper_a + lower_a * (1.0 - upper_a)
    rgb = (upper_rgb * upper_a + lower_rgb * lower_a * (1.0 - upper_a)) / np.maximum(alpha, 1e-8)
    return to_uint8(np.concatenate([_to_srgb(rgb) if linear else rgb, alpha], axis=-1))


def _to_linear(srgb: PictureF) -> PictureF:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _to_srgb(linear: PictureF) -> PictureF:
    positive = np.maximum(linear, 0.0)
    return np.where(positive <= 0.0031308, positive * 12.92, 1.055 * positive ** (1 / 2.4) - 0.055).astype(np.float32)
