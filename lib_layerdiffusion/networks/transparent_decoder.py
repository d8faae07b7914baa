"""The latent-transparency decoder: (pixels, latent) -> alpha and colour.

A U-Net over RGB pixels into which the latent enters at an eighth of the size (arXiv 2402.17113, section 3.1 and
appendix). Module names are those of the published state dict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.networks.loading import count_indices, load_strictly

PUBLISHED_CHANNELS = (32, 32, 64, 128, 256, 512, 512)
NORM_GROUPS = 4
HEAD_CHANNELS = 8
LATENT_LEVEL = 3
"""The latent has an eighth of the picture's size: three halvings."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-5)


class ResidualLayer(nn.Module):
    """Two normalised convolutions beside a shortcut, [B, C_in, H, W] -> [B, C_out, H, W]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer; activations are computed in place where nothing else reads them."""
        hidden = self.conv1(functional.silu(self.norm1(x), inplace=True))
        hidden = self.conv2(functional.silu(self.norm2(hidden), inplace=True))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class PixelAttention(nn.Module):
    """Self-attention over all positions with eight channels a head, beside its input, [B, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.group_norm = _norm(channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the H * W positions."""
        batch, channels, height, width = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(tokens).view(batch, -1, self.heads, channels // self.heads).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        tokens = self.to_out[0](attended.transpose(1, 2).reshape(batch, -1, channels))
        return x + tokens.transpose(1, 2).reshape(batch, channels, height, width)


class Resample(nn.Module):
    """A 3x3 convolution that halves (stride 2) or, after doubling by nearest neighbour, keeps the size."""

    def __init__(self, channels: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> half or double the height and width."""
        return self.conv(x if self.down else functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownBlock(nn.Module):
    """Residual layers, each followed by attention on deep levels, then a halving except on the last level."""

    def __init__(self, channels_in: int, channels_out: int, layers: int, *, attention: bool, resample: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * (layers - 1)
        self.resnets = nn.ModuleList(ResidualLayer(width, channels_out) for width in widths)
        self.attentions = nn.ModuleList(PixelAttention(channels_out) for _ in range(layers if attention else 0))
        self.downsamplers = nn.ModuleList([Resample(channels_out, down=True)] if resample else [])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Every intermediate result, in order; the last one goes on, all of them return on the way up."""
        results: list[Tensor] = []
        for index, layer in enumerate(self.resnets):
            x = layer(x)
            if len(self.attentions):
                x = self.attentions[index](x)
            results.append(x)
        for layer in self.downsamplers:
            x = layer(x)
            results.append(x)
        return results


class UpBlock(nn.Module):
    """Residual layers over what the way down kept, then a doubling except on the last level."""

    def __init__(self, widths: Sequence[int], channels_out: int, *, attention: bool, resample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualLayer(width, channels_out) for width in widths)
        self.attentions = nn.ModuleList(PixelAttention(channels_out) for _ in (widths if attention else ()))
        self.upsamplers = nn.ModuleList([Resample(channels_out, down=False)] if resample else [])

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        """Consume one kept result per layer from the end of `kept`."""
        for index, layer in enumerate(self.resnets):
            x = layer(torch.cat([x, kept.pop()], dim=1))
            if len(self.attentions):
                x = self.attentions[index](x)
        for layer in self.upsamplers:
            x = layer(x)
        return x


class MiddleBlock(nn.Module):
    """Residual layer, attention, residual layer on the smallest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(channels)])
        self.resnets = nn.ModuleList([ResidualLayer(channels, channels), ResidualLayer(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> same."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class TransparentDecoder(nn.Module):
    """Reads alpha and colour out of a decoded picture and the latent that it was decoded from.

    channels: width of every level; each level but the last halves the picture. layers: residual layers a level (one
    more on the way up). attention_levels: how many of the deepest levels have attention. Without arguments the network
    is the published one (104,104,804 parameters).
    """

    def __init__(
        self, channels: Sequence[int] = PUBLISHED_CHANNELS, *, layers: int = 2, attention_levels: int = 3
    ) -> None:
        super().__init__()
        levels = len(channels)
        self.size_multiple = 2 ** (levels - 1)
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(4, channels[LATENT_LEVEL - 1], 1)
        before = [channels[0], *channels[:-1]]
        attention = [level >= levels - attention_levels for level in range(levels)]
        self.down_blocks = nn.ModuleList(
            DownBlock(before[i], channels[i], layers, attention=attention[i], resample=i < levels - 1)
            for i in range(levels)
        )
        self.mid_block = MiddleBlock(channels[-1])
        self.up_blocks = nn.ModuleList()
        width = channels[-1]
        for level in reversed(range(levels)):
            kept = [channels[level]] * layers + [before[level]]
            widths = [(width if i == 0 else channels[level]) + skip for i, skip in enumerate(kept)]
            self.up_blocks.append(UpBlock(widths, channels[level], attention=attention[level], resample=level > 0))
            width = channels[level]
        self.conv_norm_out = _norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], 4, 3, padding=1)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> TransparentDecoder:
        """Build the network whose keys and shapes these are, of any size, and load them.

        Raises:
            WeightsError: they are no transparency decoder's; the message names keys that differ.
        """
        levels = count_indices(state_dict, r"down_blocks\.(\d+)\.")
        layers = count_indices(state_dict, r"down_blocks\.0\.resnets\.(\d+)\.")
        with_attention = {match[1] for key in state_dict if (match := re.match(r"down_blocks\.(\d+)\.attentions", key))}
        try:
            widths = [state_dict[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
        except KeyError as missing:
            raise WeightsError(f"The file is no transparency decoder: {missing} is missing; fetch it again.") from None
        if levels <= LATENT_LEVEL:
            raise WeightsError("The file is no transparency decoder: it has too few levels; fetch it again.")
        with torch.device("meta"):
            network = cls(widths, layers=layers, attention_levels=len(with_attention))
        return load_strictly(network, state_dict, "transparency decoder")

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """Decode one view of a picture.

        pixels: [B, 3, H, W] in [0, 1], H and W multiples of `size_multiple` (64). latent: [B, 4, H/8, W/8].
        Returns [B, 4, H, W]: alpha, red, green, blue, nominally in [0, 1] but unclipped; colour is straight, not
        premultiplied.
        """
        x = self.conv_in(pixels)
        kept = [x]
        for level, block in enumerate(self.down_blocks):
            if level == LATENT_LEVEL:
                x = x + self.latent_conv_in(latent)
            results = block(x)
            kept.extend(results)
            x = results[-1]
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x, kept)
        return self.conv_out(functional.silu(self.conv_norm_out(x), inplace=True))
