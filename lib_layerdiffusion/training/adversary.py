"""A patch discriminator for the transparency stage: soft matter stays grainy where a mean error would blur it.

Both sides are trained by one optimiser in one backward pass: the generator's part of the loss runs through a frozen
copy of the discriminator's weights, the discriminator's part sees detached pictures.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WIDTHS = (24, 48, 96)


class PatchDiscriminator(nn.Module):
    """Judges patches of about 30 pixels: pictures [N, C, H, W] in [0, 1] -> [N, 1, H/8, W/8], high for true ones.

    channels: 4 for RGBA, 3 for RGB.
    """

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures * 2 - 1)


def premultiplied(rgba: Tensor) -> Tensor:
    """Colour times alpha beside alpha, so that colour under alpha 0 can't be judged: [N, 4, H, W] in [0, 1]."""
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def adversarial_losses(judge: nn.Module, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """The generator's and the discriminator's non-saturating loss on pictures `ours` against true ones `theirs`.

    The first reaches only what made `ours`, the second only `judge`.
    """
    frozen = {key: value.detach() for key, value in judge.named_parameters()}
    fooled = F.softplus(-torch.func.functional_call(judge, frozen, (ours,))).mean()
    told = F.softplus(-judge(theirs)).mean() + F.softplus(judge(ours.detach())).mean()
    return fooled, told
