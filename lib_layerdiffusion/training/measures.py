"""Measures of RGBA pictures: composites, structure, and what the field measures of mattes.

All take float tensors [N, C, H, W] in [0, 1], ours first, and give one number, the mean over pictures.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lib_layerdiffusion.training.synthesis import premultiply_grey

NINE_COLOURS = [(v, v, v) for v in (0.0, 0.5, 1.0)] + [
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)
]  # fmt: skip
SOFT_MARGIN = 0.05
"""Alpha this far from 0 and from 1 counts as soft."""
_SSIM_WIDTH, _SSIM_SIGMA, _SSIM_FLOORS = 11, 1.5, (0.01**2, 0.03**2)
_GRADIENT_SIGMA = 1.4

Distance = Callable[[Tensor, Tensor], float]


def psnr(ours: Tensor, theirs: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, optionally inside a mask."""
    weight = torch.ones_like(theirs) if where is None else where.expand_as(theirs)
    error = ((ours - theirs) ** 2 * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
    return float((-10 * torch.log10(error.clamp_min(1e-10))).mean())


def over(rgba: Tensor, scene: Tensor) -> Tensor:
    """Composite straight RGBA [N, 4, H, W] over [N, 3, H, W] or a colour that broadcasts."""
    return scene + (rgba[:, :3] - scene) * rgba[:, 3:]


def on_nine_colours(measure: Callable[..., float], *pictures: Tensor) -> float:
    """A measure of composites of RGBA pictures (one batch, or two to compare), mean over nine background colours."""
    colours = [torch.tensor(colour)[None, :, None, None] for colour in NINE_COLOURS]
    return sum(measure(*(over(rgba, colour) for rgba in pictures)) for colour in colours) / len(colours)


def composite_psnr(ours: Tensor, theirs: Tensor) -> float:
    """PSNR of composites on nine colours, in dB."""
    return on_nine_colours(psnr, ours, theirs)


def alpha_error(ours: Tensor, theirs: Tensor) -> float:
    """Mean absolute error of the alpha of RGBA pictures."""
    return float((ours[:, 3:] - theirs[:, 3:]).abs().mean())


def _gaussian(sigma: float, radius: int) -> Tensor:
    line = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-(line**2) / (2 * sigma**2))
    return weights / weights.sum()


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Filter every channel down its rows, then along its columns; only where the filter fits."""
    channels = x.shape[1]
    x = F.conv2d(x, rows.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, columns.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def ssim(ours: Tensor, theirs: Tensor) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, mean over channels; 1 is equal."""
    window = _gaussian(_SSIM_SIGMA, _SSIM_WIDTH // 2)

    def mean(x: Tensor) -> Tensor:
        return _separable(x, window, window)

    one, other = mean(ours), mean(theirs)
    spread = mean(ours**2) - one**2, mean(theirs**2) - other**2, mean(ours * theirs) - one * other
    level = (2 * one * other + _SSIM_FLOORS[0]) / (one**2 + other**2 + _SSIM_FLOORS[0])
    return float((level * (2 * spread[2] + _SSIM_FLOORS[1]) / (spread[0] + spread[1] + _SSIM_FLOORS[1])).mean())


def _soft(alpha: Tensor) -> Tensor:
    return ((alpha > SOFT_MARGIN) & (alpha < 1 - SOFT_MARGIN)).float()


def soft_sad(ours: Tensor, theirs: Tensor) -> float:
    """Sum of absolute alpha differences over soft pixels, in thousands a picture (Rhemann et al. 2009)."""
    alpha = theirs[:, 3:]
    return float(((ours[:, 3:] - alpha).abs() * _soft(alpha)).sum((1, 2, 3)).mean()) / 1000


def soft_mse(ours: Tensor, theirs: Tensor) -> float:
    """Mean squared alpha difference over all soft pixels."""
    alpha = theirs[:, 3:]
    soft = _soft(alpha)
    return float(((ours[:, 3:] - alpha).square() * soft).sum() / soft.sum().clamp_min(1))


def gradient_error(ours: Tensor, theirs: Tensor) -> float:
    """Squared difference of the lengths of alpha's Gaussian gradients, in thousands a picture (Rhemann et al. 2009)."""
    radius = round(3 * _GRADIENT_SIGMA)
    smooth = _gaussian(_GRADIENT_SIGMA, radius)
    slope = smooth * -torch.arange(-radius, radius + 1) / _GRADIENT_SIGMA**2

    def length(alpha: Tensor) -> Tensor:
        padded = F.pad(alpha, (radius,) * 4, mode="replicate")
        return (_separable(padded, slope, smooth) ** 2 + _separable(padded, smooth, slope) ** 2).sqrt()

    return float((length(ours[:, 3:]) - length(theirs[:, 3:])).square().sum((1, 2, 3)).mean()) / 1000


def features(rgba: Tensor) -> Tensor:
    """A small description of RGBA pictures: colour on grey and alpha at 16x16, [N, 1024]."""
    return F.adaptive_avg_pool2d(torch.cat([premultiply_grey(rgba), rgba[:, 3:]], dim=1), 16).flatten(1)


def closely_framed(rgba: Tensor, side: int = 64) -> Tensor:
    """Straight RGBA cut to the square around what can be seen of it, [N, 4, side, side]: size and place don't count."""
    framed: list[Tensor] = []
    for picture in rgba:
        seen = (picture[3] > 0.1).nonzero()
        if not len(seen):
            framed.append(F.interpolate(picture[None], size=(side, side), mode="area"))
            continue
        (top, left), (bottom, right) = seen.amin(0).tolist(), (seen.amax(0) + 1).tolist()
        longer = max(bottom - top, right - left)
        across, down = longer - (right - left), longer - (bottom - top)
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        cut = F.pad(picture[None, :, top:bottom, left:right], margins)
        framed.append(F.interpolate(cut, size=(side, side), mode="area"))
    return torch.cat(framed)


def spread_of_seeds(made: Tensor) -> float:
    """How far apart pictures [seeds, subjects, 4, H, W] of a subject are: mean distance of their `features`."""
    described = torch.stack([features(rgba) for rgba in made], dim=1)
    distances = torch.cdist(described, described)
    pairs = made.shape[0] * (made.shape[0] - 1)
    return float(distances.sum((1, 2)).mean()) / max(pairs, 1)
