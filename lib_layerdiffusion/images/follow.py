"""Letting alpha follow a picture that another program has scaled or cropped.

Upscalers, croppers and face tools hand on colour alone. Where their picture lies in the one that they were given is
found by normalised cross-correlation of the two; alpha is then brought to the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.images.arithmetic import Picture8, PictureF, to_float, to_uint8

LEAST_LIKENESS = 0.6
"""Correlation below which two pictures do not show the same: an upscaled or restored one stays above 0.9."""
SEARCH_SIDE = 256
"""Longest side in pixels of the pictures in which places are looked for before they are looked at closely."""
MIRROR_SIDE = 96
"""Side in pixels of the squares in which pictures are compared with their mirrored forms."""
MIRROR_LEAD = 0.1
"""By how much a mirrored form must be liker than the picture as it is."""
SAME_SHAPE = 0.02
"""Relative difference of two factors up to which a change of size counts as plain scaling."""


@dataclass(frozen=True)
class Placement:
    """Where a changed picture lies: it is the first one, scaled to `width` x `height`, then cut out or laid in.

    left, top: of the changed picture's corner in the scaled one, in pixels; negative where it has a border around it.
    """

    width: int
    height: int
    left: int = 0
    top: int = 0


def find_placement(before: Picture8, after: Picture8) -> Placement | None:
    """Where `after` lies in `before`, None where they do not show the same.

    before, after: uint8 [H, W, 3] and [H', W', 3]. Looked for are one scale in both directions with a cut or a border,
    the scale that fills the new size in each direction, and a cut without scaling.
    """
    (height, width), (new_height, new_width) = before.shape[:2], after.shape[:2]
    if (height, width) == (new_height, new_width):
        return Placement(width, height)
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32) for picture in (before, after)]
    best, likeness = None, LEAST_LIKENESS
    for size in _sizes(width, height, new_width, new_height):
        placement, found = _placed(grey[0], grey[1], size)
        if found > likeness + 1e-3:
            best, likeness = placement, found
    return best


def _sizes(width: int, height: int, new_width: int, new_height: int) -> Iterator[tuple[int, int]]:
    """(width, height) to which the first picture may have been scaled."""
    factors = sorted((new_width / width, new_height / height))
    if factors[1] - factors[0] <= SAME_SHAPE * factors[1]:
        yield new_width, new_height
    else:
        yield from ((max(1, round(width * factor)), max(1, round(height * factor))) for factor in reversed(factors))
        yield new_width, new_height
    yield width, height


def _placed(before: PictureF, after: PictureF, size: tuple[int, int]) -> tuple[Placement, float]:
    """The best place at one scale, and how alike the pictures are there."""
    scaled = _scaled(before, size)
    inside = [scaled.shape[axis] >= after.shape[axis] for axis in (0, 1)]
    if not (all(inside) or not any(inside) or scaled.shape[0] == after.shape[0] or scaled.shape[1] == after.shape[1]):
        return Placement(*size), 0.0
    whole, part = (scaled, after) if all(inside) else (after, scaled)
    if not all(whole.shape[axis] >= part.shape[axis] for axis in (0, 1)):
        return Placement(*size), 0.0
    (left, top), likeness = _best_place(whole, part)
    sign = 1 if whole is scaled else -1
    return Placement(*size, sign * left, sign * top), likeness


def _best_place(whole: PictureF, part: PictureF) -> tuple[tuple[int, int], float]:
    """Where `part` lies in `whole`: roughly in small copies, then by the pixel."""
    shrink = max(1.0, max(whole.shape) / SEARCH_SIDE)
    small = [
        _scaled(item, (max(1, round(item.shape[1] / shrink)), max(1, round(item.shape[0] / shrink))))
        for item in (whole, part)
    ]
    small[1] = small[1][: small[0].shape[0], : small[0].shape[1]]
    (left, top), likeness = _match(*small)
    if shrink == 1.0:
        return (left, top), likeness
    reach = int(np.ceil(shrink)) + 1
    room = (whole.shape[1] - part.shape[1], whole.shape[0] - part.shape[0])
    start = [min(max(0, round(at * shrink) - reach), most) for at, most in zip((left, top), room, strict=True)]
    stop = [min(at + 2 * reach, most) for at, most in zip(start, room, strict=True)]
    window = whole[start[1] : stop[1] + part.shape[0], start[0] : stop[0] + part.shape[1]]
    (left, top), likeness = _match(window, part)
    return (start[0] + left, start[1] + top), likeness


def _match(whole: PictureF, part: PictureF) -> tuple[tuple[int, int], float]:
    if float(part.std()) < 0.5 or float(whole.std()) < 0.5:  # flat pictures are alike everywhere
        return ((whole.shape[1] - part.shape[1]) // 2, (whole.shape[0] - part.shape[0]) // 2), 1.0
    likeness = cv2.matchTemplate(whole, part, cv2.TM_CCOEFF_NORMED)
    _, highest, _, place = cv2.minMaxLoc(likeness)
    return (int(place[0]), int(place[1])), float(highest)


def _scaled(picture: NDArray[np.float32], size: tuple[int, int]) -> PictureF:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.float32).reshape(size[1], size[0], *picture.shape[2:])


def _moved(picture: PictureF, placement: Placement, height: int, width: int) -> PictureF:
    """A picture brought to a placement, [height, width, ...]; 0 where it does not reach."""
    scaled = _scaled(picture, (placement.width, placement.height))
    result = np.zeros((height, width, *picture.shape[2:]), np.float32)
    top, left = max(0, placement.top), max(0, placement.left)
    cut = scaled[top : top + height, left : left + width]
    down, right = max(0, -placement.top), max(0, -placement.left)
    cut = cut[: height - down, : width - right]
    result[down : down + cut.shape[0], right : right + cut.shape[1]] = cut
    return result


def with_alpha_of(after: Picture8, rgba: Picture8, placement: Placement) -> Picture8:
    """The changed picture with the alpha of the one that it was made of.

    after: uint8 [H', W', 3]. rgba: uint8 [H, W, 4], the picture before the change. Returns uint8 [H', W', 4]; alpha is
    resampled (area averages down, cubic up), and 0 where the changed picture has a border.
    """
    alpha = rgba[..., 3]
    if (placement.width, placement.height, placement.left, placement.top) != (*alpha.shape[::-1], 0, 0) or (
        alpha.shape != after.shape[:2]
    ):
        alpha = to_uint8(_moved(to_float(alpha), placement, *after.shape[:2]))
    return np.dstack([after, alpha])


def find_mirroring(before: Picture8, after: Picture8) -> tuple[bool, bool]:
    """Whether `after` shows `before` mirrored from left to right, and from top to bottom.

    before, after: uint8 [H, W, 3] and [H', W', 3]. Mirrored pictures are looked for where the shape is the same.
    """
    factors = (after.shape[1] / before.shape[1], after.shape[0] / before.shape[0])
    if abs(factors[0] - factors[1]) > SAME_SHAPE * max(factors):
        return False, False
    small = [
        _scaled(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32), (MIRROR_SIDE, MIRROR_SIDE))
        for picture in (before, after)
    ]
    if min(float(picture.std()) for picture in small) < 0.5:
        return False, False
    best, likeness = (False, False), abs(_match(*small)[1]) + MIRROR_LEAD
    for across, down in ((True, False), (False, True), (True, True)):
        found = _match(mirrored(small[0], across=across, down=down), small[1])[1]
        if found > likeness:
            best, likeness = (across, down), found
    return best


def mirrored(picture: NDArray[Any], *, across: bool, down: bool) -> NDArray[Any]:
    """A picture [H, W, ...] turned over from left to right, from top to bottom, or both."""
    turned = picture[:, ::-1] if across else picture
    return np.ascontiguousarray(turned[::-1] if down else turned)


def carry_alpha(rgba: Picture8, before: Picture8, after: Picture8) -> Picture8 | None:
    """What somebody made of an opaque picture, with the alpha of the picture that it came from.

    rgba: uint8 [H, W, 4]. before: uint8 [H, W, 3], its colour as it was handed on. after: uint8 [H', W', 3], what came
    of it: changed, scaled, cut or mirrored. Returns uint8 [H', W', 4], None where it does not show the same any more.
    """
    across, down = find_mirroring(before, after)
    rgba, before = (mirrored(picture, across=across, down=down) for picture in (rgba, before))
    placement = find_placement(before, after)
    return None if placement is None else with_alpha_of(after, rgba, placement)


def with_changes(layer: Picture8, before: PictureF, after: Picture8, placement: Placement) -> Picture8:
    """A layer that takes over what somebody did to the opaque picture that it was decoded with.

    layer: uint8 RGBA [H, W, 4]. before: float32 [H, W, 3] in [0, 1], the opaque picture as it was. after: uint8
    [H', W', 3], the same changed. The layer is brought to the new size and place, premultiplied; what the change added
    to the plainly resampled picture, such as an upscaler's detail, is added to its colour. Returns uint8 [H', W', 4].
    """
    height, width = after.shape[:2]
    values = to_float(layer)
    values[..., :3] *= values[..., 3:]
    moved = _moved(values, placement, height, width)
    alpha = np.clip(moved[..., 3:], 0.0, 1.0)
    colour = moved[..., :3] / np.maximum(moved[..., 3:], 1e-4)
    added = to_float(after) - _moved(before, placement, height, width)
    return to_uint8(np.concatenate([np.clip(colour + added, 0.0, 1.0), alpha], axis=-1))
