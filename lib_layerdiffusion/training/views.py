"""The eight views that decoding uses, one of its own for every picture of a batch, without waiting for the device."""

import torch
from torch import Generator, Tensor

from lib_layerdiffusion.transparency import VIEWS


def draw_views(count: int, generator: Generator) -> Tensor:
    """Random rows of :data:`lib_layerdiffusion.transparency.VIEWS`, [count]."""
    return torch.randint(len(VIEWS), (count,), generator=generator, device=generator.device)


def _parts(views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each view is mirrored, turned by half, and turned by a quarter (more), [N, 1, 1, 1] each.

    Worked out from the order of the views, as a table would have to be copied to the device.
    """
    views = views[:, None, None, None]
    return views % 2 == 1, views // 2 % 2 == 1, views >= 4


def each_turned(x: Tensor, views: Tensor) -> Tensor:
    """Turn each of [N, C, S, S] by its own view."""
    mirrored, half, quarter = _parts(views)
    x = torch.where(mirrored, x.flip(3), x)
    x = torch.where(half, x.flip((2, 3)), x)
    return torch.where(quarter, torch.rot90(x, 1, (2, 3)), x)


def each_turned_back(x: Tensor, views: Tensor) -> Tensor:
    """What each view of [N, C, S, S] shows, brought back to the picture's own orientation."""
    mirrored, half, quarter = _parts(views)
    x = torch.where(quarter, torch.rot90(x, -1, (2, 3)), x)
    x = torch.where(half, x.flip((2, 3)), x)
    return torch.where(mirrored, x.flip(3), x)
