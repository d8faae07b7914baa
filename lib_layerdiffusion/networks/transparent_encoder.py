"""The transparency encoder: a plain stack of convolutions from RGBA to a latent offset.

"Transparent Image Layer Diffusion using Latent Transparency" (Zhang & Agrawala, 2024), section 3.1; names and shapes
are those of the published state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lib_layerdiffusion.networks.loading import count_indices, load_strictly, shape_of

PUBLISHED_WIDTHS = (32, 64, 128, 256)

_NAME = "transparency encoder"


def convolution_stack(channels_in: int, widths: Sequence[int]) -> list[nn.Module]:
    """Two 3x3 convolutions a width with SiLU behind each; every width but the first begins by halving both sides.

    The published encoder and the condition encoder of attention sharing begin with this stack.
    """
    stack: list[nn.Module] = []
    for index, width in enumerate(widths):
        stack += [nn.Conv2d(channels_in, width, 3, stride=2 if index else 1, padding=1), nn.SiLU(inplace=True)]
        stack += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU(inplace=True)]
        channels_in = width
    return stack


class TransparentEncoder(nn.Module):
    """RGBA in, offset of the VAE's latent out.

    widths: of the pairs of convolutions, finest first; each after the first halves both sides.
    latent_channels: of the offset. Without arguments: the published architecture (nine convolutions).
    """

    def __init__(self, *, widths: Sequence[int] = PUBLISHED_WIDTHS, latent_channels: int = 4) -> None:
        super().__init__()
        self.widths = tuple(widths)
        last = nn.Conv2d(widths[-1], latent_channels, 3, padding=1)
        self.blocks = nn.Sequential(*convolution_stack(4, widths), last)

    @property
    def latent_factor(self) -> int:
        """Pixels a latent position, along one side."""
        return 2 ** (len(self.widths) - 1)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> TransparentEncoder:
        """Read the architecture from keys and shapes and load strictly.

        Raises:
            WeightsError: the file is another network's, or incomplete; the message names keys.
        """
        pairs = (count_indices(state_dict, "blocks.") - 1) // 2
        widths = [shape_of(state_dict, f"blocks.{4 * pair}.weight", 4, _NAME)[0] for pair in range(max(pairs, 1))]
        latent_channels = shape_of(state_dict, f"blocks.{4 * len(widths)}.weight", 4, _NAME)[0]
        return load_strictly(lambda: cls(widths=widths, latent_channels=latent_channels), state_dict, _NAME)

    def forward(self, rgba: Tensor) -> Tensor:
        """Encode a picture.

        rgba: [B, 4, H, W] alpha, red, green, blue in [0, 1], H and W multiples of 8. Returns [B, 4, H/8, W/8].

        Raises:
            ValueError: a size does not fit.
        """
        if rgba.shape[-2] % self.latent_factor or rgba.shape[-1] % self.latent_factor:
            raise ValueError(
                f"height and width must be multiples of {self.latent_factor}, not {tuple(rgba.shape[-2:])}"
            )
        result: Tensor = self.blocks(rgba)
        return result


def zero_last_convolution(encoder: TransparentEncoder) -> None:
    """Make a fresh encoder's offset zero, so that training starts from the VAE as it is (paper section 3.1)."""
    last = encoder.blocks[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
