"""Procedural pictures of fine matter on clear ground: text, lines one pixel wide, stripes.

All functions draw on a torch generator and return straight RGBA [4, size, size] in [0, 1]; widths are in pixels,
whatever the size.
"""

import string
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from lib_layerdiffusion.training.synthesis import pick, uniform

STRIPE_WIDTHS = (1, 2, 4)
_SHIFT = 4  # bits of a pixel's fraction in OpenCV's coordinates


def _coloured(alpha: np.ndarray, generator: Generator) -> Tensor:
    """One random colour in the shape of an alpha [size, size] uint8."""
    matte = torch.from_numpy(alpha).float()[None] / 255
    return torch.cat([uniform(generator, 3, 1, 1).expand(3, *alpha.shape), matte])


def text(generator: Generator, size: int) -> Tensor:
    """Lines of random letters, strokes of about a pixel, capitals 9 to 13 pixels high."""
    alpha = np.zeros((size, size), np.uint8)
    scale = float(uniform(generator, 1, low=0.42, high=0.6))
    for row in range(20, size - 6, 20):
        word = "".join(string.ascii_letters[pick(generator, 52)] for _ in range(size // 12))
        cv2.putText(alpha, word, (8, row), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    return _coloured(alpha, generator)


def lines(generator: Generator, size: int) -> Tensor:
    """Eight straight lines, one pixel wide, in all directions."""
    alpha = np.zeros((size, size), np.uint8)
    for _ in range(8):
        ends = (uniform(generator, 4, low=0.06, high=0.94) * size * 2**_SHIFT).int().tolist()
        cv2.line(alpha, (ends[0], ends[1]), (ends[2], ends[3]), 255, 1, cv2.LINE_AA, _SHIFT)
    return _coloured(alpha, generator)


def stripes(generator: Generator, size: int) -> Tensor:
    """A square of stripes, upright or level, as wide as the gaps between them."""
    width = STRIPE_WIDTHS[pick(generator, len(STRIPE_WIDTHS))]
    alpha = np.zeros((size, size), np.uint8)
    first, last = size // 8, size - size // 8
    rows = np.arange(last - first) // width % 2 == 0
    alpha[first:last, first:last][rows] = 255
    return _coloured(np.ascontiguousarray(alpha.T) if pick(generator, 2) else alpha, generator)


FINE: tuple[Callable[[Generator, int], Tensor], ...] = (text, lines, stripes)


def fine_set(kind: Callable[[Generator, int], Tensor], size: int, count: int, seed: int) -> Tensor:
    """`count` pictures of one kind, [count, 4, size, size], always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([kind(generator, size) for _ in range(count)])
