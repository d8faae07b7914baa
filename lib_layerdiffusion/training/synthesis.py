"""Procedural pictures: what icon sets lack (glass, glow, smoke, shadow, hair) and backgrounds to put things on.

All functions draw on a torch generator and return float tensors in [0, 1]; RGBA is straight colour and alpha. Numbers
are drawn on the generator's device.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

BACKGROUNDS = {
    "sky": ((0.35, 0.62, 0.95), (0.85, 0.93, 1.0)),
    "sunset": ((0.35, 0.2, 0.5), (1.0, 0.6, 0.3)),
    "grass": ((0.65, 0.85, 1.0), (0.25, 0.6, 0.2)),
    "sand": ((0.55, 0.8, 0.95), (0.93, 0.82, 0.58)),
    "night": ((0.03, 0.04, 0.15), (0.15, 0.15, 0.4)),
    "pink": ((1.0, 0.85, 0.9), (0.95, 0.6, 0.75)),
    "wood": ((0.6, 0.4, 0.22), (0.45, 0.28, 0.14)),
    "white": ((0.97, 0.97, 0.97), (0.88, 0.88, 0.9)),
}


def uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers of a shape in [low, high)."""
    return torch.rand(*shape, generator=generator, device=generator.device) * (high - low) + low


def pick(generator: Generator, count: int) -> int:
    """One integer in [0, count)."""
    return int(torch.randint(count, (1,), generator=generator, device=generator.device))


def smooth_noise(generator: Generator, channels: int, size: int, cells: int) -> Tensor:
    """Bicubic value noise, [channels, size, size]."""
    grid = uniform(generator, 1, channels, cells, cells)
    return F.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def _axes(size: int) -> tuple[Tensor, Tensor]:
    line = torch.linspace(-1, 1, size)
    return torch.meshgrid(line, line, indexing="ij")


def _disc_distance(generator: Generator, size: int) -> Tensor:
    """Distance from a random ellipse's centre, 1 on its edge, bent a little."""
    y, x = _axes(size)
    cx, cy = uniform(generator, 2, low=-0.25, high=0.25)
    rx, ry = uniform(generator, 2, low=0.35, high=0.7)
    bend = smooth_noise(generator, 1, size, 4)[0] * 0.4 - 0.2
    return (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2).sqrt() + bend


def glass(generator: Generator, size: int) -> Tensor:
    """A tinted pane or bubble: thin inside, thicker rim, a highlight."""
    distance = _disc_distance(generator, size)
    inside = ((1 - distance) * size / 8).clamp(0, 1)
    rim = torch.exp(-(((distance - 0.9) / 0.12) ** 2))
    alpha = inside * (uniform(generator, 1, low=0.1, high=0.5) + 0.5 * rim)
    colour = uniform(generator, 3, 1, 1) * torch.ones(3, size, size)
    y, x = _axes(size)
    light = torch.exp(-(((x + 0.25) / 0.15) ** 2) - ((y + 0.25) / 0.15) ** 2) * inside
    return torch.cat([colour + (1 - colour) * light, (alpha + light * 0.7).clamp(0, 1)[None]])


def glow(generator: Generator, size: int) -> Tensor:
    """A soft light that fades outward."""
    distance = _disc_distance(generator, size).clamp_min(0)
    alpha = torch.exp(-((distance / uniform(generator, 1, low=0.4, high=0.9)) ** 2)) * uniform(generator, 1, low=0.4)
    centre, edge = uniform(generator, 2, 3, 1, 1)
    return torch.cat([edge + (centre - edge) * alpha, alpha[None]])


def smoke(generator: Generator, size: int) -> Tensor:
    """Cloudy noise inside a soft blob."""
    cloud = sum(smooth_noise(generator, 1, size, cells)[0] / (i + 1) for i, cells in enumerate((4, 8, 16))) / 1.83
    blob = (1.3 - _disc_distance(generator, size)).clamp(0, 1)
    alpha = (blob * cloud * uniform(generator, 1, low=0.8, high=1.8)).clamp(0, 1)
    return torch.cat([uniform(generator, 3, 1, 1) * (0.7 + 0.3 * cloud), alpha[None]])


def shadow(generator: Generator, size: int) -> Tensor:
    """A dark, blurred shape."""
    distance = _disc_distance(generator, size)
    softness = uniform(generator, 1, low=0.1, high=0.5)
    alpha = torch.sigmoid((0.8 - distance) / softness * 4) * uniform(generator, 1, low=0.3, high=0.8)
    return torch.cat([uniform(generator, 3, 1, 1, high=0.25).expand(3, size, size), alpha[None]])


def _strands(generator: Generator, size: int, unit: float) -> Tensor:
    """Hair whose strands are about a unit wide."""
    y, x = _axes(size)
    count = 24
    root = uniform(generator, count, 1, 1, low=-0.6, high=0.6)
    lean, curl = uniform(generator, 2, count, 1, 1, low=-0.5, high=0.5)
    phase = uniform(generator, count, 1, 1, high=math.tau)
    path = root + lean * (y + 1) / 2 + 0.2 * curl * torch.sin(3 * y + phase)
    width = uniform(generator, count, 1, 1, low=0.3, high=1.5) * unit
    strand = (1.5 - (x - path).abs() / width).clamp(0, 1) * (0.9 - y.abs()).mul(6).clamp(0, 1)
    alpha = 1 - (1 - strand * 0.9).prod(dim=0)
    return torch.cat([uniform(generator, 3, 1, 1) * (0.75 + 0.25 * smooth_noise(generator, 1, size, 16)), alpha[None]])


def hair(generator: Generator, size: int) -> Tensor:
    """Many thin strands of one colour, thinner than a pixel in places."""
    return _strands(generator, size, 2 / size)


def broad_hair(generator: Generator, size: int) -> Tensor:
    """The same strands at the same share of the picture whatever its size: of a pixel at 128, of two at 256."""
    return _strands(generator, size, 2 / 128)


TRANSLUCENT: tuple[Callable[[Generator, int], Tensor], ...] = (glass, glow, smoke, shadow, hair)


def translucent(generator: Generator, size: int, count: int) -> Tensor:
    """A batch of procedural RGBA pictures of all kinds, [count, 4, size, size]."""
    kinds = [pick(generator, len(TRANSLUCENT)) for _ in range(count)]
    return torch.stack([TRANSLUCENT[kind](generator, size) for kind in kinds]).clamp(0, 1)


def background(generator: Generator, size: int, kind: str | None = None) -> Tensor:
    """A picture to put things on, [3, size, size]: a named two-colour scene with gentle noise, or random colours."""
    mix = torch.linspace(0, 1, size)[None, :, None]
    if kind is None:
        top, bottom = uniform(generator, 2, 3, 1, 1)
    else:
        top, bottom = (torch.tensor(colour)[:, None, None] for colour in BACKGROUNDS[kind])
    if kind in ("grass", "sand"):
        mix = ((mix - 0.55) * size / 6 + 0.5).clamp(0, 1)
    wave = smooth_noise(generator, 1, size, 3 + pick(generator, 6)) - 0.5
    strength = float(uniform(generator, 1, low=0.0, high=0.6 if kind is None else 0.12))
    return (top + (bottom - top) * mix + wave * strength).clamp(0, 1)


def premultiply_grey(rgba: Tensor) -> Tensor:
    """Show straight RGBA on mid-grey, as the VAE is to see it: [N, 4, H, W] -> [N, 3, H, W]."""
    return 0.5 + (rgba[:, :3] - 0.5) * rgba[:, 3:]
