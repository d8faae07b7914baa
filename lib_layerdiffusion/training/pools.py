"""Procedural pictures drawn once and used again turned and mirrored: drawing them anew would take longer than training.

A pool's pictures look natural in all eight views that decoding uses, so each counts eightfold.
"""

from functools import lru_cache

import torch
from torch import Generator, Tensor

from lib_layerdiffusion.training.fine import FINE
from lib_layerdiffusion.training.matter import MATTER
from lib_layerdiffusion.training.synthesis import background, pick, translucent
from lib_layerdiffusion.transparency import VIEWS, turned

SOFT_COUNT, SCENE_COUNT = 400, 160
# Of the soft pool: named matter, and text, lines and stripes; the rest is of unnamed shapes.
_NAMED_SHARE, _FINE_SHARE = 0.2, 0.2


def _bytes(batch: Tensor) -> Tensor:
    return (batch.clamp(0, 1) * 255).round().byte()


@lru_cache(maxsize=1)
def soft_pool(size: int, count: int = SOFT_COUNT, seed: int = 8) -> Tensor:
    """Translucent and fine matter of all kinds, straight RGBA uint8 [count, 4, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    named, fine = round(count * _NAMED_SHARE), round(count * _FINE_SHARE)
    parts = [_bytes(translucent(generator, size, 1)) for _ in range(count - named - fine)]
    parts += [_bytes(MATTER[row % len(MATTER)](generator, size)[0][None]) for row in range(named)]
    parts += [_bytes(FINE[row % len(FINE)](generator, size)[None]) for row in range(fine)]
    return torch.cat(parts)


@lru_cache(maxsize=1)
def scene_pool(size: int, count: int = SCENE_COUNT, seed: int = 9) -> Tensor:
    """Backgrounds in random colours, uint8 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_bytes(background(generator, size)) for _ in range(count)])


def draw(pool: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` pictures of a pool, each in a random view, as floats in [0, 1]."""
    rows = torch.randint(len(pool), (count,), generator=generator).tolist()
    views = [VIEWS[pick(generator, len(VIEWS))] for _ in rows]
    return torch.cat([turned(pool[row : row + 1], view) for row, view in zip(rows, views, strict=True)]).float() / 255
