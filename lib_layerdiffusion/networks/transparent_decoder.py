"""The transparency decoder: a U-Net that reads alpha and true colour out of a picture and its latent.

"Transparent Image Layer Diffusion using Latent Transparency" (Zhang & Agrawala, 2024), section 3.1 and appendix; names
and shapes are those of the published state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from lib_layerdiffusion.networks.loading import count_indices, load_strictly, shape_of

PUBLISHED_CHANNELS = (32, 32, 64, 128, 256, 512, 512)
OUTPUT_CHANNELS = 4
"""Alpha, red, green, blue."""

_NAME = "transparency decoder"


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut: [B, width_in, H, W] -> [B, width_out, H, W]."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(_normalised_silu(self.norm1, x))
        h = self.conv2(_normalised_silu(self.norm2, h))
        return h.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention over all positions, added to its input: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, width: int, head_width: int, groups: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.group_norm = nn.GroupNorm(groups, width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        # A view where the memory format is channels_last: no transposing copy.
        tokens = self.group_norm(x).permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        q, k, v = (
            project(tokens).view(batch, height * columns, -1, self.head_width).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * columns, width)
        out = self.to_out[0](attended).view(batch, height, columns, width).permute(0, 3, 1, 2)
        return out.add_(x)


class Downsample(nn.Module):
    """Halve both sides: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double both sides: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """One resolution of the U-Net, down or up: residual layers, attention after each where `head_width` is given."""

    def __init__(self, widths_in: Sequence[int], width: int, head_width: int | None, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(width_in, width, groups) for width_in in widths_in])
        self.attentions: nn.ModuleList | None = None
        if head_width is not None:
            self.attentions = nn.ModuleList([AttentionBlock(width, head_width, groups) for _ in widths_in])

    def layer(self, index: int, x: Tensor) -> Tensor:
        x = self.resnets[index](x)
        return x if self.attentions is None else self.attentions[index](x)


class DownLevel(_Level):
    """[B, width_in, H, W] -> [B, width, H/2, W/2] (H, W at the last level); keeps every result for the way up."""

    def __init__(
        self, width_in: int, width: int, layers: int, head_width: int | None, groups: int, *, last: bool
    ) -> None:
        super().__init__([width_in] + [width] * (layers - 1), width, head_width, groups)
        self.downsamplers = None if last else nn.ModuleList([Downsample(width)])

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.layer(index, x)
            kept.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            kept.append(x)
        return x


class UpLevel(_Level):
    """[B, width_in, H, W] -> [B, width, 2H, 2W] (H, W at the last level); takes the kept results off the list."""

    def __init__(
        self, widths_in: Sequence[int], width: int, head_width: int | None, groups: int, *, last: bool
    ) -> None:
        super().__init__(widths_in, width, head_width, groups)
        self.upsamplers = None if last else nn.ModuleList([Upsample(width)])

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, kept.pop()], dim=1))
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MiddleLevel(_Level):
    """Residual layer, attention, residual layer at the lowest resolution: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, width: int, head_width: int, groups: int) -> None:
        super().__init__([width, width], width, None, groups)
        self.attentions = nn.ModuleList([AttentionBlock(width, head_width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.layer(0, x))


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
        x = self.conv_in(pixels)
        kept = [x]
        for level, block in enumerate(self.down_blocks):
            if level == self.latent_level:
                x = x + self.latent_conv_in(latent)  # not in place: the list keeps the picture alone
            x = block(x, kept)
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x, kept)
        return self.conv_out(_normalised_silu(self.conv_norm_out, x))


def _normalised_silu(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


def _kept_widths(channels: Sequence[int], layers: int) -> list[int]:
    """Widths of the results that the way down keeps, in their order: conv_in, then layers and downsampling a level."""
    kept = [channels[0]]
    for level, width in enumerate(channels):
        kept += [width] * (layers + (level < len(channels) - 1))
    return kept
