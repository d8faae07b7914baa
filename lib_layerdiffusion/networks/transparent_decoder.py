"""The transparency decoder: a U-Net that reads alpha and true colour out of a picture and its latent.

"Transparent Image Layer Diffusion using Latent Transparency" (Zhang & Agrawala, 2024), section 3.1 and appendix; names
and shapes are those of the published state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lib_layerdiffusion.networks import allocation, gpu_blocks
from lib_layerdiffusion.networks.decoder_blocks import DownLevel, MiddleLevel, UpLevel, group_norm
from lib_layerdiffusion.networks.loading import count_indices, load_strictly, shape_of

PUBLISHED_CHANNELS = (32, 32, 64, 128, 256, 512, 512)
OUTPUT_CHANNELS = 4
"""Alpha, red, green, blue."""

_NAME = "transparency decoder"
_LARGE = 64 << 20
"""Bytes of a map of the finest level from which on memory counts for more than a twentieth of the time."""


class TransparentDecoder(nn.Module):
    """Pixels and latent in, alpha and straight (not premultiplied) colour out.

    channels: width of each level, finest first. layers: residual layers a level on the way down, one more on the way
    up. attention_levels: how many of the deepest levels have attention. head_width: channels an attention head.
    groups: of every GroupNorm. latent_channels: of the latent. latent_level: the down level before which the latent is
    added, so that pixels have 2**latent_level times the latent's size. Without arguments: the published architecture.

    Raises:
        ValueError: the numbers do not make a network.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = PUBLISHED_CHANNELS,
        layers: int = 2,
        attention_levels: int = 3,
        head_width: int = 8,
        groups: int = 4,
        latent_channels: int = 4,
        latent_level: int = 3,
    ) -> None:
        super().__init__()
        levels = len(channels)
        if not 0 < latent_level < levels or not 0 <= attention_levels <= levels or layers < 1:
            raise ValueError(
                f"latent_level must lie inside the {levels} levels, attention_levels must not exceed them, "
                f"and a level needs a layer; got {latent_level=}, {attention_levels=}, {layers=}"
            )
        if any(width % groups for width in channels) or any(width % head_width for width in channels[-1:]):
            raise ValueError(f"{groups=} and {head_width=} must divide the widths {tuple(channels)}")
        self.channels = tuple(channels)
        self.latent_channels = latent_channels
        self.latent_level = latent_level
        heads = [head_width if level >= levels - attention_levels else None for level in range(levels)]
        before = [channels[0], *channels[:-1]]
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(latent_channels, channels[latent_level - 1], 1)
        self.down_blocks = nn.ModuleList(
            [
                DownLevel(before[level], channels[level], layers, heads[level], groups, last=level == levels - 1)
                for level in range(levels)
            ]
        )
        self.mid_block = MiddleLevel(channels[-1], head_width, groups)
        kept = _kept_widths(channels, layers)
        self.up_blocks = nn.ModuleList()
        width_in = channels[-1]
        for level in reversed(range(levels)):
            widths_in = [width + kept.pop() for width in [width_in] + [channels[level]] * layers]
            self.up_blocks.append(UpLevel(widths_in, channels[level], heads[level], groups, last=level == 0))
            width_in = channels[level]
        self.conv_norm_out = nn.GroupNorm(groups, channels[0])
        self.conv_out = nn.Conv2d(channels[0], OUTPUT_CHANNELS, 3, padding=1)

    @property
    def size_multiple(self) -> int:
        """Height and width of the pixels must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @property
    def latent_factor(self) -> int:
        """Pixels a latent position, along one side."""
        return 2**self.latent_level

    @property
    def activations_per_pixel(self) -> int:
        """About how many numbers one pass holds at its peak, for each pixel (322 measured for the published network).

        The results kept for the way up, each at its own resolution, and six maps of the finest level, where it peaks.
        """
        layers = len(self.down_blocks[0].resnets)  # pyright: ignore[reportArgumentType]
        kept = self.channels[0]
        for level, width in enumerate(self.channels):
            kept += width * layers / 4**level + (width / 4 ** (level + 1) if level < len(self.channels) - 1 else 0)
        return round(kept) + 6 * self.channels[0]

    @property
    def dtype(self) -> torch.dtype:
        """In which most of the network computes."""
        return self.mid_block.dtype

    @property
    def activation_bytes_per_pixel(self) -> int:
        """About how much memory one pass takes at its peak, for each pixel.

        It peaks at the end, or at the beginning where the finest level alone is in float32: then with its results, the
        picture's first map and three that come and go.
        """
        finest, layers = self.down_blocks[0], len(self.down_blocks[0].resnets)  # pyright: ignore[reportArgumentType]
        first = self.channels[0] * (layers + 4) * next(finest.parameters()).dtype.itemsize
        return max(self.activations_per_pixel * self.dtype.itemsize, first)

    def with_precision(self, dtype: torch.dtype) -> Self:
        """Change the weights to `dtype`, in place; what eight bits of mantissa are too few for stays in float32.

        With bfloat16 that is what sees the picture itself in full resolution (`conv_in` and the finest level on the way
        down), the latent, and the last normalisation and convolution: these hold most of the error and a tenth of the
        time. With the golden cases' random weights eight views then differ from float32 by at most one level on average
        and two at the 99.9th percentile.
        """
        fine: tuple[nn.Module, ...] = ()
        if dtype is torch.bfloat16:
            fine = (self.conv_in, self.latent_conv_in, self.down_blocks[0], self.conv_norm_out, self.conv_out)
        kept = {parameter for part in fine for parameter in part.parameters()}
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter in kept else dtype)
        return self

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        head_width: int = 8,
        groups: int = 4,
        latent_level: int = 3,
    ) -> TransparentDecoder:
        """Read the architecture from keys and shapes and load strictly.

        head_width, groups, latent_level: not to be seen in shapes; the defaults are the published ones.

        Raises:
            WeightsError: the file is another network's, or incomplete; the message names keys.
        """
        levels = count_indices(state_dict, "down_blocks.")
        channels = [shape_of(state_dict, f"down_blocks.{i}.resnets.0.conv1.weight", 4, _NAME)[0] for i in range(levels)]
        latent_channels = shape_of(state_dict, "latent_conv_in.weight", 4, _NAME)[1]
        layers = count_indices(state_dict, "down_blocks.0.resnets.")
        attention_levels = sum(f"down_blocks.{i}.attentions.0.to_q.weight" in state_dict for i in range(levels))

        def build() -> TransparentDecoder:
            return cls(
                channels=channels,
                layers=layers,
                attention_levels=attention_levels,
                head_width=head_width,
                groups=groups,
                latent_channels=latent_channels,
                latent_level=latent_level,
            )

        return load_strictly(build, state_dict, _NAME)

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """Decode once.

        pixels: [B, 3, H, W] in [0, 1], H and W multiples of `size_multiple` (64). latent: [B, 4, H/8, W/8].
        Returns [B, 4, H, W]: alpha, red, green, blue, not clipped.

        Raises:
            ValueError: a size does not fit.
        """
        height, width = pixels.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(f"height and width must be multiples of {self.size_multiple}, not {height}x{width}")
        if latent.shape[-2:] != (height // self.latent_factor, width // self.latent_factor):
            raise ValueError(f"the latent of {height}x{width} pixels cannot have {tuple(latent.shape[-2:])} positions")
        if gpu_blocks.fits(pixels):
            return self._on_gpu(pixels, latent)
        x = self.conv_in(pixels.to(self.conv_in.weight.dtype))
        kept = [x]
        for level, block in enumerate(self.down_blocks):
            if level == self.latent_level:
                added = self.latent_conv_in(latent.to(self.latent_conv_in.weight.dtype))
                x = x + added.to(x.dtype)  # not in place: the list keeps the picture alone
            x = block(x, kept)
            if level == 0 and self.dtype is not x.dtype:
                kept[:] = [item.to(self.dtype) for item in kept]
                _make_room(kept[0])
        x = self.mid_block(x)
        for block in self.up_blocks:
            if block is self.up_blocks[-1]:
                _make_room(kept[0])  # else the peak, which follows, comes on top of what deeper levels have left
            x = block(x, kept)
        return self.conv_out(group_norm(x.to(self.conv_norm_out.weight.dtype), self.conv_norm_out))

    def _on_gpu(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """`forward` in the blocks that suit a GPU."""
        x = gpu_blocks.convolved(self.conv_in, pixels.to(self.conv_in.weight))
        kept = [x]
        for level, block in enumerate(self.down_blocks):
            if level == self.latent_level:
                added = self.latent_conv_in(latent.to(self.latent_conv_in.weight))
                x = gpu_blocks.Map(x.values + added.to(x.values.dtype), x.bias)
            x = gpu_blocks.down(block, x, kept)  # pyright: ignore[reportArgumentType]
            if level == 0:
                kept[:] = [item.to(self.dtype) for item in kept]
        x = gpu_blocks.middle(self.mid_block, x)
        for block in self.up_blocks:
            x = gpu_blocks.up(block, x, kept)  # pyright: ignore[reportArgumentType]
        return self.conv_out(gpu_blocks.normalised([x.to(self.conv_norm_out.weight.dtype)], self.conv_norm_out))


def _make_room(finest: Tensor) -> None:
    """Give back what is free where maps like this one, of the finest level, are large."""
    if finest.nbytes >= _LARGE and finest.device.type == "cpu" and not torch.compiler.is_compiling():
        allocation.give_back()


def _kept_widths(channels: Sequence[int], layers: int) -> list[int]:
    """Widths of the results that the way down keeps, in their order: conv_in, then layers and downsampling a level."""
    kept = [channels[0]]
    for level, width in enumerate(channels):
        kept += [width] * (layers + (level < len(channels) - 1))
    return kept
