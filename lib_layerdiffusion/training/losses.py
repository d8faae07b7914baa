"""What the VAE and transparency stages minimise, in parts that are weighted in one place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

FLOOR = 1e-4


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the transparency stages' loss counts.

    alpha, colour: mean absolute errors, colour where it can be seen; soft: of alpha where it is partly transparent;
    blend: of composites, in decibels; edges: of alpha and premultiplied colour; identity: of the VAE's own picture;
    offset: the size of E's offset; adversary: the patch discriminator; features: see :class:`FeatureDistance`.
    """

    alpha: float = 1.0
    colour: float = 1.0
    soft: float = 1.5
    blend: float = 0.25
    edges: float = 0.5
    identity: float = 1.0
    offset: float = 0.01
    adversary: float = 0.01
    features: float = 0.0


def decibels(squares: Tensor) -> Tensor:
    """Mean logarithm of squared errors [N], one a picture.

    It is what figures in decibels measure, and as steep for a picture that is almost right as for a bad one.
    """
    return torch.log(squares + FLOOR).mean()


def multiscale_gradient(ours: Tensor, theirs: Tensor) -> Tensor:
    """L1 between horizontal and vertical differences on three scales: edges, without a perceptual network."""
    total = ours.new_zeros(())
    for _ in range(3):
        total = total + F.l1_loss(ours.diff(dim=-1), theirs.diff(dim=-1))
        total = total + F.l1_loss(ours.diff(dim=-2), theirs.diff(dim=-2))
        ours, theirs = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
    return total


def blend_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared error [N] of composites over uniformly random grey levels, in closed form (AlphaVAE's idea).

    Both are [N, 4, H, W] straight RGBA. With d the difference of premultiplied colours and e that of alphas the error
    on a background b is d - b e, whose square averages to d^2 - d e + e^2 / 3 for b uniform in [0, 1].
    """
    colour = ours[:, :3] * ours[:, 3:] - theirs[:, :3] * theirs[:, 3:]
    alpha = ours[:, 3:] - theirs[:, 3:]
    return (colour**2 - colour * alpha + alpha**2 / 3).mean(dim=(1, 2, 3))


def soft_error(ours: Tensor, theirs: Tensor, margin: float = 0.02) -> Tensor:
    """Mean absolute error of alpha [N, 1, H, W] where the true one is more than a margin from 0 and from 1."""
    partly = ((theirs > margin) & (theirs < 1 - margin)).float()
    return ((ours - theirs).abs() * partly).sum() / partly.sum().clamp_min(1)


def reconstruction_error(ours: Tensor, theirs: Tensor, weights: LossWeights) -> Tensor:
    """Weighted error of straight RGBA [N, 4, H, W] against the true one: alpha, colour, composites, edges."""
    alpha, colour = theirs[:, 3:], theirs[:, :3]
    loss = weights.alpha * (ours[:, 3:] - alpha).abs().mean()
    loss = loss + weights.colour * ((ours[:, :3] - colour).abs() * (alpha + 0.1)).mean()
    loss = loss + weights.soft * soft_error(ours[:, 3:], alpha)
    loss = loss + weights.blend * decibels(blend_error(ours, theirs))
    edges = multiscale_gradient(ours[:, 3:], alpha)
    return loss + weights.edges * (edges + multiscale_gradient(ours[:, :3] * ours[:, 3:], colour * alpha))


class FeatureDistance:
    """Distance of pictures in the feature space of the first levels of a VAE's encoder.

    In the manner of LPIPS (Zhang et al. 2018), with a network that is at hand instead of one trained on photographs:
    features are normalised along channels, squared differences averaged, levels added.
    """

    def __init__(self, vae: nn.Module, levels: int = 2) -> None:
        encoder: nn.Module = vae.get_submodule("encoder")
        blocks: Sequence[nn.Module] = list(encoder.get_submodule("down_blocks").children())
        self.stages = [encoder.get_submodule("conv_in"), *blocks[:levels]]

    def __call__(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Distance of pictures [N, 3, H, W] in [0, 1], a scalar."""
        total = ours.new_zeros(())
        one, other = ours * 2 - 1, theirs * 2 - 1
        for stage in self.stages:
            one, other = stage(one), stage(other)
            total = total + (F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean()
        return total
