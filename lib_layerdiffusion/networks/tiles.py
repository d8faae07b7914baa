"""Overlapping tiles of a picture that is too large to be decoded at once, and how their results become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 128
"""Pixels that neighbours share; over them one result fades into the other."""
SMALLEST = 512
"""A tile's side is not less: the decoder's deepest levels attend to everything, and would see too little."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture. top, left, bottom, right: in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor) -> Tensor:
        """The tile's part of [..., H, W]."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def of_latent(self, x: Tensor, factor: int) -> Tensor:
        """The same of a latent [..., h, w] of `factor` pixels a position; the last one may stand for fewer."""
        rows = slice(self.top // factor, -(-self.bottom // factor))
        return x[..., rows, self.left // factor : -(-self.right // factor)]


def tile_side(height: int, width: int, bytes_per_pixel: int, limit: int, multiple: int) -> int | None:
    """The largest side of square tiles that `limit` bytes are enough for, or None if the whole picture fits.

    The side is a multiple of `multiple`, and never less than `SMALLEST`.
    """
    if height * width * bytes_per_pixel <= limit or max(height, width) <= SMALLEST:
        return None
    side = int((limit / bytes_per_pixel) ** 0.5) // multiple * multiple
    return max(side, -(-SMALLEST // multiple) * multiple)


def cut(height: int, width: int, side: int, multiple: int) -> list[Tile]:
    """Tiles of at most `side` that cover the picture, evenly spread, overlapping by `OVERLAP` pixels or more."""
    rows, columns = (_needed(length, side, multiple) for length in (height, width))
    return [
        Tile(top, left, min(top + rows, height), min(left + columns, width))
        for top in _starts(height, rows, multiple)
        for left in _starts(width, columns, multiple)
    ]


def _needed(length: int, side: int, multiple: int) -> int:
    """A side with which no more tiles cover `length` than with `side`, as what overlaps is computed twice.

    Neighbours share twice `OVERLAP` where `side` allows it, so that both see the place where one fades into the other.
    """
    if length <= side:
        return side
    shared = OVERLAP + multiple
    count = -(-(length - shared) // (side - shared))
    needed = -(-(length + (count - 1) * (shared + OVERLAP)) // count)
    return min(side, max(-(-needed // multiple) * multiple, SMALLEST))


def _starts(length: int, side: int, multiple: int) -> list[int]:
    if length <= side:
        return [0]
    shared = OVERLAP + multiple  # beginnings are rounded, which takes up to `multiple` off the overlap
    count = -(-(length - shared) // (side - shared))
    # Rounded up, so that the last tile reaches the picture's end, and its latent's first position is whole.
    return [-(-index * (length - side) // (count - 1) // multiple) * multiple for index in range(count)]


def blended(tiles: Iterable[tuple[Tile, Tensor]], shape: tuple[int, ...]) -> Tensor:
    """Results [B, C, h, w] of tiles put together to `shape` [B, C, H, W], float32 in main memory.

    Each fades out towards its inner edges, linearly over the overlap.
    """
    total, weights = torch.zeros(shape), torch.zeros(shape[-2:])
    for tile, result in tiles:
        rows = _ramp(tile.top, tile.bottom, shape[-2])
        columns = _ramp(tile.left, tile.right, shape[-1])
        weight = rows[:, None] * columns[None]
        tile.of(total).add_(result.float().cpu() * weight)
        tile.of(weights).add_(weight)
    return total.div_(weights)


def _ramp(start: int, end: int, whole: int) -> Tensor:
    position = torch.arange(end - start, dtype=torch.float32) + 0.5
    rising = position / OVERLAP if start > 0 else torch.ones_like(position)
    falling = position.flip(0) / OVERLAP if end < whole else torch.ones_like(position)
    return torch.minimum(rising, falling).clamp_(max=1.0)


def halved(side: int | None, height: int, width: int, multiple: int) -> int | None:
    """The next smaller side to try where memory ran out, None if tiles cannot be smaller."""
    before = max(height, width) if side is None else side
    smaller = max(before // 2 // multiple * multiple, -(-SMALLEST // multiple) * multiple)
    return smaller if smaller < before else None
