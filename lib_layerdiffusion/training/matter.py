"""Translucent subjects that can be asked for by name: no icon set has them, and they are what transparency is for.

All functions draw on a torch generator and return straight RGBA [4, size, size] in [0, 1] and words for the picture.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from lib_layerdiffusion.training.synthesis import pick, smooth_noise, uniform

TINTS = {
    "": (0.85, 0.93, 0.95),
    "green": (0.25, 0.62, 0.35),
    "blue": (0.25, 0.45, 0.85),
    "orange": (0.8, 0.45, 0.12),
    "red": (0.8, 0.15, 0.2),
    "purple": (0.55, 0.3, 0.75),
}
"""Colour words of glass -> its colour; the first is plain."""
LOCKS = {
    "black": (0.08, 0.07, 0.08),
    "brown": (0.4, 0.24, 0.13),
    "blonde": (0.88, 0.72, 0.42),
    "red": (0.65, 0.22, 0.1),
}

Kind = Callable[[Generator, int], tuple[Tensor, str]]


def _one(generator: Generator, low: float, high: float) -> float:
    return float(uniform(generator, 1, low=low, high=high))


def _axes(size: int) -> tuple[Tensor, Tensor]:
    line = torch.linspace(-1, 1, size)
    return torch.meshgrid(line, line, indexing="ij")


def _spot(y: Tensor, x: Tensor, cy: float, cx: float, ry: float, rx: float) -> Tensor:
    """A soft light, 1 in its centre."""
    return torch.exp(-(((y - cy) / ry) ** 2) - ((x - cx) / rx) ** 2)


def _edge(distance: Tensor, size: int) -> Tensor:
    """1 where a distance in picture units is positive, soft over about a pixel."""
    return (distance * size / 2 + 0.5).clamp(0, 1)


def _coloured(colour: Tensor, light: Tensor, alpha: Tensor) -> Tensor:
    """A colour [3, 1, 1] with white light on it, and alpha that light makes denser."""
    shown = colour + (1 - colour) * light
    return torch.cat([shown, (alpha + light * (1 - alpha) * 0.85).clamp(0, 1)[None]])


def glass_bottle(generator: Generator, size: int) -> tuple[Tensor, str]:
    """A bottle: thin glass inside, dense rims, two reflections, a colour word for tinted glass."""
    word = list(TINTS)[pick(generator, len(TINTS))]
    y, x = _axes(size)
    x = x - _one(generator, -0.08, 0.08) + y * _one(generator, -0.12, 0.12)
    body, neck = _one(generator, 0.3, 0.42), _one(generator, 0.09, 0.14)
    shoulder = _one(generator, -0.3, -0.1)
    half = neck + (body - neck) * torch.sigmoid((y - shoulder) * 14)
    half = torch.where(y < -0.74, neck * 1.35, half)
    sides = half - x.abs()
    inside = _edge(torch.minimum(sides, torch.minimum(y + 0.85, 0.85 - y)), size)
    rim = torch.exp(-((sides.clamp_min(0) / 0.05) ** 2)) + torch.exp(-(((0.85 - y).clamp_min(0) / 0.06) ** 2))
    alpha = inside * (_one(generator, 0.14, 0.3) + 0.55 * rim.clamp(0, 1))
    stripe = torch.exp(-(((x + body * 0.55) / 0.035) ** 2)) * _edge(y - shoulder - 0.15, size // 8)
    light = inside * (stripe * _edge(0.7 - y, size // 8) + 0.6 * _spot(y, x, -0.5, -neck / 2, 0.12, 0.03)).clamp(0, 1)
    colour = torch.tensor(TINTS[word])[:, None, None] * (1 - 0.35 * rim.clamp(0, 1))
    return _coloured(colour, light, alpha), f"{word} glass bottle".strip()


def soap_bubble(generator: Generator, size: int) -> tuple[Tensor, str]:
    """A film that is almost clear, its rim in the colours of thin layers, two windows reflected."""
    y, x = _axes(size)
    cy, cx, radius = _one(generator, -0.1, 0.1), _one(generator, -0.1, 0.1), _one(generator, 0.5, 0.8)
    distance = ((y - cy) ** 2 + (x - cx) ** 2).sqrt() / radius
    inside = _edge((1 - distance) * radius, size)
    film = distance.clamp(0, 1) ** 5
    phase = 7 * distance + 2 * torch.atan2(y - cy, x - cx) + _one(generator, 0, math.tau)
    phase = phase + 3 * smooth_noise(generator, 1, size, 4)[0]
    colour = torch.stack([0.72 + 0.28 * torch.cos(phase + shift) for shift in (0, math.tau / 3, 2 * math.tau / 3)])
    light = _spot(y, x, cy - radius * 0.5, cx - radius * 0.45, 0.1, 0.14)
    light = inside * (light + 0.5 * _spot(y, x, cy + radius * 0.55, cx + radius * 0.4, 0.06, 0.09)).clamp(0, 1)
    return _coloured(colour, light, inside * (0.05 + 0.6 * film)), "soap bubble"


def candle_glow(generator: Generator, size: int) -> tuple[Tensor, str]:
    """A flame with a wide warm halo that fades to nothing."""
    y, x = _axes(size)
    cx, lean = _one(generator, -0.08, 0.08), _one(generator, -0.2, 0.2)
    x = x - cx - lean * (y - 0.3).clamp(max=0) ** 2
    height, width = _one(generator, 0.38, 0.55), _one(generator, 0.11, 0.17)
    up = ((0.3 - y) / height).clamp(0, 1)
    half = width * (up * (1 - up) * 4).sqrt() * (1 - 0.55 * up)
    flame = _edge(half - x.abs(), size // 3) * (half / 0.03).clamp(0, 1)
    halo = 0.55 * _spot(y, x, 0.1, 0, 0.55, 0.5) + 0.25 * _spot(y, x, 0.1, 0, 0.3, 0.25)
    outer = torch.tensor([1.0, 0.62, 0.18])[:, None, None]
    core = torch.tensor([1.0, 0.95, 0.7])[:, None, None]
    colour = outer + (core - outer) * (flame * (1 - 0.5 * up))
    # Ends before the frame, as a picture on a clear border does.
    alpha = (halo + flame * 0.95).clamp(0, 1) * ((0.95 - (x**2 + y**2).sqrt()) * 3).clamp(0, 1)
    return torch.cat([colour, alpha[None]]), "candle glow"


def smoke_plume(generator: Generator, size: int) -> tuple[Tensor, str]:
    """Smoke that rises, widens and thins."""
    y, x = _axes(size)
    up = ((0.85 - y) / 1.7).clamp(0, 1)
    sway = _one(generator, 0.08, 0.25) * torch.sin(4 * up + _one(generator, 0, math.tau)) * up
    width = 0.1 + _one(generator, 0.3, 0.45) * up
    cloud = sum(smooth_noise(generator, 1, size, cells)[0] / (i + 1) for i, cells in enumerate((5, 10, 20))) / 1.83
    column = torch.exp(-(((x - sway) / width) ** 2)) * (0.86 - y.abs()).mul(5).clamp(0, 1)
    alpha = (column * (cloud * 2.6 - 0.35) * (1.05 - 0.55 * up)).clamp(0, 1)
    grey = _one(generator, 0.55, 0.9)
    return torch.cat([(grey + 0.12 * (cloud - 0.5)).expand(3, -1, -1), alpha[None]]), "smoke"


def lock_of_hair(generator: Generator, size: int) -> tuple[Tensor, str]:
    """Single strands of one root, about a 128th of the picture wide, so at 256 pixels two."""
    word = list(LOCKS)[pick(generator, len(LOCKS))]
    y, x = _axes(size)
    count = 18 + pick(generator, 18)
    root, lean, curl = (uniform(generator, count, 1, 1, low=-limit, high=limit) for limit in (0.2, 0.4, 0.1))
    down = (y + 0.9) / 1.8
    path = root + lean * down + curl * torch.sin(5 * down + uniform(generator, count, 1, 1, high=math.tau))
    width = uniform(generator, count, 1, 1, low=0.8, high=1.8) / 128 * (1.2 - 0.7 * down)
    length = uniform(generator, count, 1, 1, low=0.5, high=0.88)
    strands = _edge(width - (x - path).abs(), size) * ((length - y) * 5).clamp(0, 1) * ((y + 0.9) * 12).clamp(0, 1)
    alpha = 1 - (1 - strands * 0.92).prod(dim=0)
    shade = 0.8 + 0.4 * smooth_noise(generator, 1, size, 16)
    colour = (torch.tensor(LOCKS[word])[:, None, None] * shade).clamp(0, 1)
    return torch.cat([colour, alpha[None]]), "hair" if pick(generator, 3) == 0 else f"{word} hair"


def soft_shadow(generator: Generator, size: int) -> tuple[Tensor, str]:
    """What something leaves on the floor: a flat dark ellipse, dense in its middle."""
    y, x = _axes(size)
    wide, high = _one(generator, 0.45, 0.75), _one(generator, 0.14, 0.3)
    distance = (((y - _one(generator, -0.1, 0.4)) / high) ** 2 + (x / wide) ** 2).sqrt()
    alpha = torch.sigmoid((0.8 - distance) * _one(generator, 5, 10)) * _one(generator, 0.4, 0.75)
    alpha = alpha * (distance < 1.9) * _edge(0.95 - torch.maximum(x.abs(), y.abs()), 16)
    return torch.cat([torch.full((3, size, size), _one(generator, 0, 0.12)), alpha[None]]), "soft shadow"


MATTER: tuple[Kind, ...] = (glass_bottle, soap_bubble, candle_glow, smoke_plume, lock_of_hair, soft_shadow)
MATTER_NAMES = ("glass-bottle", "soap-bubble", "candle-glow", "smoke", "hair", "soft-shadow")
"""Their slugs, for lists of subjects."""
