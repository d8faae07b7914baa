"""Procedural pictures drawn once and used again turned and mirrored: drawing them anew would take longer than training.

A pool's pictures look natural in all eight views that decoding uses, so each counts eightfold.
"""

from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from lib_layerdiffusion.training.fine import FINE
from lib_layerdiffusion.training.matter import MATTER
from lib_layerdiffusion.training.synthesis import background, broad_hair, translucent
from lib_layerdiffusion.training.views import draw_views, each_turned
from lib_layerdiffusion.training.workers import in_parallel

SOFT_COUNT, SCENE_COUNT, HAIR_COUNT = 1200, 240, 500
# Of the soft pool: named matter; text, lines and stripes; and hair of some width. The rest is of unnamed shapes.
_NAMED_SHARE, _FINE_SHARE, _HAIR_SHARE = 0.2, 0.15, 0.1


def _bytes(picture: Tensor) -> NDArray[np.uint8]:
    return (picture.clamp(0, 1) * 255).round().byte().numpy()


def _soft(row: int, size: int, seed: int) -> NDArray[np.uint8]:
    """One picture of the soft pool."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    kind, number = (row % 20) / 20, row // 20
    if kind < _NAMED_SHARE:
        return _bytes(MATTER[row % len(MATTER)](generator, size)[0])
    if kind < _NAMED_SHARE + _FINE_SHARE:
        return _bytes(FINE[number % len(FINE)](generator, size))
    if kind < _NAMED_SHARE + _FINE_SHARE + _HAIR_SHARE:
        return _bytes(broad_hair(generator, size))
    return _bytes(translucent(generator, size, 1)[0])


@lru_cache(maxsize=1)
def soft_pool(size: int, count: int = SOFT_COUNT, seed: int = 8) -> Tensor:
    """Translucent and fine matter of all kinds, straight RGBA uint8 [count, 4, size, size]."""
    return torch.from_numpy(np.stack(in_parallel(partial(_soft, size=size, seed=seed), range(count))))


def _lock(row: int, size: int, seed: int) -> NDArray[np.uint8]:
    """One picture of the hair pool."""
    return _bytes(broad_hair(torch.Generator().manual_seed(seed * 1_000_003 + row), size))


@lru_cache(maxsize=1)
def hair_pool(size: int, count: int = HAIR_COUNT, seed: int = 10) -> Tensor:
    """Hair of one width at every size's share, straight RGBA uint8 [count, 4, size, size]."""
    return torch.from_numpy(np.stack(in_parallel(partial(_lock, size=size, seed=seed), range(count))))


@lru_cache(maxsize=1)
def scene_pool(size: int, count: int = SCENE_COUNT, seed: int = 9) -> Tensor:
    """Backgrounds in random colours, uint8 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.from_numpy(np.stack([_bytes(background(generator, size)) for _ in range(count)]))


def draw(pool: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` pictures of a pool, each in a random view, as floats in [0, 1]."""
    rows = torch.randint(len(pool), (count,), generator=generator, device=generator.device)
    return each_turned(pool[rows], draw_views(count, generator)).float() / 255
