"""RGBA pictures to start from: bringing them and their mask to size, and keeping what lies outside the mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.images.arithmetic import flatten_on_grey, to_float, to_uint8
from lib_layerdiffusion.images.reading import Picture


def resized_rgba(picture: Picture, height: int, width: int) -> Picture:
    """uint8 RGBA [H, W, 4] -> [height, width, 4], resampled premultiplied, so that hidden colour stays hidden.

    Pictures that have the size already are returned as they are.
    """
    if picture.shape[:2] == (height, width):
        return picture
    values = to_float(picture)
    values[..., :3] *= values[..., 3:]
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(values, (width, height), interpolation=method), np.float32)
    resized[..., :3] /= np.maximum(resized[..., 3:], 1e-8)
    return to_uint8(resized)


def resized_mask(mask: Picture, height: int, width: int) -> NDArray[np.float32]:
    """A mask, uint8 RGBA [H, W, 4] whose brightness counts, -> float32 [height, width] in [0, 1]."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = to_float(mask)[..., :3] @ weights
    if grey.shape != (height, width):
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return np.clip(grey, 0.0, 1.0)


def outside_kept(made: NDArray[Any], start: Picture, mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The made picture where the mask is 1 and the start where it is 0, the very bytes, blended premultiplied between.

    made: uint8 [H, W, 4] or [H, W, 3]; for the latter the start is flattened on grey. mask: float [H, W].
    """
    share = mask[..., None]
    if made.shape[2] == 3:
        kept = flatten_on_grey(start)
        mixed = to_uint8(to_float(made) * share + to_float(kept) * (1 - share))
    else:
        kept, one, other = start, to_float(made), to_float(start)
        alpha = one[..., 3:] * share + other[..., 3:] * (1 - share)
        colour = one[..., :3] * one[..., 3:] * share + other[..., :3] * other[..., 3:] * (1 - share)
        mixed = to_uint8(np.concatenate([colour / np.maximum(alpha, 1e-8), alpha], axis=-1))
    return np.where(share <= 0, kept, np.where(share >= 1, made, mixed)).astype(np.uint8)
