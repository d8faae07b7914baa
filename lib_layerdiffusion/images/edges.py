"""Edge clean-up, on request: colour decontamination of soft edges, and alpha levels.

A matte whose soft pixels still hold some of the old background, `C = alpha * F + (1 - alpha) * B` in place of F, shows
a halo on every other background. F is not known there, but it is in the solid pixels a few steps further in.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.errors import InputError, SettingsError
from lib_layerdiffusion.images.arithmetic import Picture8, PictureF, to_float, to_uint8

SOLID_LEVEL = 250
"""Alpha levels from here on count as solid: their colour is trusted and never changed."""
RADIUS = 8.0
"""Pixels from a solid one within which a soft pixel is its edge; at twice the distance it is a thing of its own (glass,
smoke, a shadow) and keeps its colour."""
RAMP = 0.2
"""Transparency (1 - alpha) from which on a soft pixel takes the solid colour wholly; below, there is less to mend."""
SMOOTHING = 5
"""Side in pixels of the window over which solid colours are averaged, against streaks from single pixels."""


class EdgeSettings(Protocol):
    """The settings of a clean-up: `LayerSettings` has them."""

    @property
    def edge_cleanup(self) -> float: ...  # noqa: D102 - strength, 0 to 1

    @property
    def alpha_low(self) -> float: ...  # noqa: D102 - black point

    @property
    def alpha_high(self) -> float: ...  # noqa: D102 - white point


def clean_edges(
    rgba: Picture8, *, strength: float = 1.0, black_point: float = 0.0, white_point: float = 1.0
) -> Picture8:
    """Decontaminate, then set alpha levels: the order matters, contamination goes by the alpha of the generation.

    rgba: uint8 [H, W, 4]. strength, black_point, white_point: 0 to 1, as in `decontaminate` and `alpha_levels`.
    Returns a new uint8 [H, W, 4]. A strength of 0 and points of 0 and 1 change nothing.

    Raises:
        InputError: the picture is not 8-bit RGBA.
        SettingsError: a value is out of range.
    """
    return alpha_levels(decontaminate(rgba, strength), black_point, white_point)


def clean_as_set(rgba: Picture8, settings: EdgeSettings) -> Picture8:
    """`clean_edges` with the values that the user has set, which change nothing unless asked to."""
    return clean_edges(
        rgba, strength=settings.edge_cleanup, black_point=settings.alpha_low, white_point=settings.alpha_high
    )


def decontaminate(rgba: Picture8, strength: float = 1.0) -> Picture8:
    """Pull the colour of soft pixels toward that of the nearest solid ones.

    rgba: uint8 [H, W, 4]. strength: 0 (nothing) to 1 (wholly). Returns a new uint8 [H, W, 4] with the same alpha;
    pixels whose alpha is 0 or at least 250, and those far from any solid pixel, are the very same.

    Raises:
        InputError: the picture is not 8-bit RGBA.
        SettingsError: the strength is out of range.
    """
    _check(rgba)
    if not 0 <= strength <= 1:
        raise SettingsError(f"The edge clean-up strength is {strength}: it must be between 0 and 1.")
    result = rgba.copy()
    alpha = rgba[..., 3]
    solid = alpha >= SOLID_LEVEL
    soft = (alpha > 0) & ~solid
    if not (solid.any() and soft.any() and strength):
        return result
    distance, colour = _nearest_solid_colour(rgba, solid)
    near = np.clip(2.0 - distance[soft] / RADIUS, 0.0, 1.0)
    transparent = np.clip((1.0 - alpha[soft] / 255.0) / RAMP, 0.0, 1.0)
    weight = (strength * near * transparent).astype(np.float32)[:, None]
    mixed = to_float(rgba[soft][:, :3]) * (1.0 - weight) + colour[soft] * weight
    result[soft, :3] = to_uint8(mixed)
    return result


def alpha_levels(rgba: Picture8, black_point: float = 0.0, white_point: float = 1.0) -> Picture8:
    """Alpha at or below the black point becomes 0, at or above the white point 1, and linear between; colour stays.

    rgba: uint8 [H, W, 4]. black_point, white_point: 0 to 1. Returns a new uint8 [H, W, 4].

    Raises:
        InputError: the picture is not 8-bit RGBA.
        SettingsError: not 0 <= black point < white point <= 1.
    """
    _check(rgba)
    if not 0 <= black_point < white_point <= 1:
        raise SettingsError(
            f"The alpha levels are {black_point} and {white_point}: use values from 0 to 1, the black point lower."
        )
    table = to_uint8((np.arange(256) / 255.0 - black_point) / (white_point - black_point))
    result = rgba.copy()
    result[..., 3] = table[rgba[..., 3]]
    return result


def _nearest_solid_colour(rgba: Picture8, solid: NDArray[np.bool_]) -> tuple[PictureF, PictureF]:
    """Distance to the nearest solid pixel, float32 [H, W], and the mean solid colour around it, float32 [H, W, 3]."""
    known = solid.astype(np.float32)
    window = (SMOOTHING, SMOOTHING)
    total = cv2.boxFilter(to_float(rgba[..., :3]) * known[..., None], -1, window, normalize=False)
    count = cv2.boxFilter(known, -1, window, normalize=False)
    mean = np.asarray(total, np.float32) / np.maximum(np.asarray(count, np.float32), 1.0)[..., None]
    distance, labels = cv2.distanceTransformWithLabels(
        (~solid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.asarray(labels, np.intp)
    colours = np.zeros((int(nearest.max()) + 1, 3), np.float32)
    colours[nearest[solid]] = mean[solid]
    return np.asarray(distance, np.float32), colours[nearest]


def _check(rgba: Picture8) -> None:
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise InputError(f"An 8-bit RGBA picture is needed, not one of shape {rgba.shape} and type {rgba.dtype}.")
