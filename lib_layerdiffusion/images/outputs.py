"""Other forms of a finished RGBA picture: cut to its content, or colour and alpha apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.images.arithmetic import Picture8, need_rgba, pad_rgb, to_uint8

FAINTEST = 3
"""Alpha level from which on a pixel counts as content: what lies below, about 1 %, nobody sees."""


def content_box(rgba: Picture8) -> tuple[int, int, int, int]:
    """left, top, right and bottom of the smallest area that holds all content; the whole where there is none.

    rgba: uint8 [H, W, 4]. Pixels, right and bottom exclusive.

    Raises:
        InputError: the picture is not 8-bit RGBA.
    """
    need_rgba(rgba)
    seen = rgba[..., 3] >= FAINTEST
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return 0, 0, rgba.shape[1], rgba.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def trimmed(rgba: Picture8) -> tuple[Picture8, int, int]:
    """The picture without the clear border around its content, and left and top of that in the whole, in pixels.

    Raises:
        InputError: the picture is not 8-bit RGBA.
    """
    left, top, right, bottom = content_box(rgba)
    return np.ascontiguousarray(rgba[top:bottom, left:right]), left, top


def apart(rgba: Picture8) -> tuple[Picture8, NDArray[np.uint8]]:
    """Colour, uint8 [H, W, 3], continued under what is clear (`pad_rgb`), and alpha, uint8 [H, W].

    Colour is the picture's own wherever anything of it is seen, so that the two together are the picture again.

    Raises:
        InputError: the picture is not 8-bit RGBA.
    """
    need_rgba(rgba)
    colour = np.where(rgba[..., 3:] > 0, rgba[..., :3], to_uint8(pad_rgb(rgba)))
    return colour, np.ascontiguousarray(rgba[..., 3])
