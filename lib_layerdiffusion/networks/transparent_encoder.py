"""The latent-transparency encoder: (alpha, padded colour) -> the offset that hides alpha in a latent.

arXiv 2402.17113, section 3.1. Module names are those of the published state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.networks.loading import load_strictly

PUBLISHED_CHANNELS = (32, 64, 128, 256)


class TransparentEncoder(nn.Module):
    """Nine 3x3 convolutions with SiLU between, three of them of stride 2.

    channels: widths at full, half, quarter and eighth size. A fresh network is the identity: its last layer is zero.
    """

    def __init__(self, channels: Sequence[int] = PUBLISHED_CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 4
        for level, width in enumerate(channels):
            layers += [nn.Conv2d(before, width, 3, stride=2 if level else 1, padding=1), nn.SiLU(inplace=True)]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU(inplace=True)]
            before = width
        last = nn.Conv2d(before, 4, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias if last.bias is not None else last.weight)
        self.blocks = nn.Sequential(*layers, last)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> TransparentEncoder:
        """Build the network whose keys and shapes these are, of any width, and load them.

        Raises:
            WeightsError: they are no transparency encoder's; the message names keys that differ.
        """
        try:
            widths = [state_dict[f"blocks.{4 * level}.weight"].shape[0] for level in range(4)]
        except KeyError as missing:
            raise WeightsError(f"The file is no transparency encoder: {missing} is missing; fetch it again.") from None
        with torch.device("meta"):
            network = cls(widths)
        return load_strictly(network, state_dict, "transparency encoder")

    def forward(self, picture: Tensor) -> Tensor:
        """[B, 4, H, W] alpha, red, green, blue in [0, 1] (colour padded) -> offset [B, 4, H/8, W/8].

        The encoded latent is `mean + std * offset` of the VAE's posterior for the picture flattened on mid-grey.
        """
        return self.blocks(picture)
