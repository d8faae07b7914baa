"""The decoder's blocks on a GPU, which multiplies faster than it reads and writes: fewer passes over every map.

The arithmetic is that of `decoder_blocks`. What differs:

- torch's GroupNorm on CUDA works on contiguous maps, hence with copies from and to channels_last around every one, and
  with one block of threads a group: four for the whole device. The kernels of batch normalisation take channels_last
  and fill the device; groups' moments follow from their channels'.
- cuDNN adds a bias in a pass of its own. Here a bias waits in `Map` for the next normalisation, which subtracts a mean
  anyway, and is added to the map itself only before a padded convolution.
- Maps from the way down are not joined with those from the way up: their normalised parts are written side by side.
"""

# What a ModuleList holds carries no type.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from lib_layerdiffusion.networks.decoder_blocks import (
    AttentionBlock,
    DownLevel,
    MiddleLevel,
    ResnetBlock,
    UpLevel,
    flat,
)

_ROW = 512
"""Values that the kernels of batch normalisation take side by side; several positions of a narrow map make a row."""


@dataclass
class Map:
    """[B, C, H, W] in channels_last, of which `bias` [C] in float32 has not been added yet."""

    values: Tensor
    bias: Tensor | None = None

    def added(self) -> Tensor:
        """The values with their bias, for everyone who holds this map."""
        if self.bias is not None:
            self.values.add_(self.bias.to(self.values.dtype)[:, None, None])
            self.bias = None
        return self.values

    def to(self, dtype: torch.dtype) -> Map:
        """The map in another precision."""
        return self if self.values.dtype is dtype else Map(self.values.to(dtype), self.bias)


def fits(pixels: Tensor) -> bool:
    """Whether these blocks are to be taken: a GPU of Nvidia, no gradients, and torch.compile does not do better."""
    nvidia = pixels.device.type == "cuda" and not torch.version.hip
    return nvidia and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def convolved(convolution: nn.Conv2d, x: Tensor) -> Map:
    """A convolution whose bias waits."""
    stride, padding = convolution.stride, convolution.padding
    bias = convolution.bias
    return Map(F.conv2d(x, convolution.weight, None, stride, padding), None if bias is None else bias.float())


def normalised(parts: Sequence[Map], norm: nn.GroupNorm, *, activated: bool = True) -> Tensor:
    """GroupNorm of the joined parts, and SiLU of it: parts [B, C_i, H, W] -> [B, sum of C_i, H, W]."""
    first = parts[0].values
    batch, _, height, width = first.shape
    means, scales = _group_moments(parts, norm)
    if batch == len(parts) == 1:
        scaled = _scaled(first, means[0], scales[0], norm, slice(None))
        return F.silu(scaled, inplace=True) if activated else scaled
    shape = (batch, norm.num_channels, height, width)
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    for index in range(batch):
        start = 0
        for part in parts:
            channels = slice(start, start + part.values.shape[1])
            here = slice(index, index + 1)
            scaled = _scaled(part.values[here], means[index, channels], scales[index, channels], norm, channels)
            target = out[here, channels]
            if activated:
                torch.ops.aten.silu.out(scaled, out=target)
            else:
                target.copy_(scaled)
            start = channels.stop
    return out


def _group_moments(parts: Sequence[Map], norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """What to subtract from each channel of the parts' values and what to multiply with, each [B, C] in float32."""
    means, spreads, biases = [], [], []
    for part in parts:
        moments = [_channel_moments(values[None], norm.eps) for values in part.values]
        means.append(torch.stack([mean for mean, _ in moments]))
        spreads.append(torch.stack([spread for _, spread in moments]))
        biases.append(torch.zeros_like(means[-1][0]) if part.bias is None else part.bias)
    bias = torch.cat(biases)
    mean = (torch.cat(means, 1) + bias).unflatten(1, (norm.num_groups, -1))
    middle, spread = _joined(mean, torch.cat(spreads, 1).view_as(mean), 2)
    return middle.expand_as(mean).flatten(1) - bias, spread.rsqrt().expand_as(mean).flatten(1)


def _joined(mean: Tensor, spread: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of equally large sets that are taken together, from those of each along `dim`, which stays."""
    middle = mean.mean(dim, keepdim=True)
    away = mean - middle
    return middle, torch.addcmul(spread, away, away).mean(dim, keepdim=True)


def _rows(x: Tensor) -> Tensor:
    """[1, C, H, W] in channels_last as rows of one or more positions, a view."""
    channels, positions = x.shape[1], x.shape[-1] * x.shape[-2]
    several = math.gcd(positions, max(1, _ROW // channels))
    return x.permute(0, 2, 3, 1).reshape(positions // several, several * channels)


def _channel_moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean, and variance plus `eps`, of every channel of [1, C, H, W], float32 [C]."""
    rows = _rows(x)
    if x.device.type == "cuda":
        mean, inverse = torch.batch_norm_stats(rows, eps)
        spread = inverse.pow_(-2)
    else:
        spread, mean = torch.var_mean(rows.float(), 0, correction=0)
        spread.add_(eps)
    if rows.shape[1] == x.shape[1]:
        return mean, spread
    middle, spread = _joined(mean.view(-1, x.shape[1]), spread.view(-1, x.shape[1]), 0)
    return middle[0], spread[0]


def _scaled(x: Tensor, mean: Tensor, scale: Tensor, norm: nn.GroupNorm, channels: slice) -> Tensor:
    """`(x - mean) * scale`, then the norm's weight and bias of `channels`; x [1, C, H, W], computed in float32."""
    rows = _rows(x)
    vectors = [mean, scale, norm.weight[channels].float(), norm.bias[channels].float()]
    mean, scale, weight, bias = torch.stack(vectors).repeat(1, rows.shape[1] // x.shape[1])
    if x.device.type == "cuda":
        made = torch.batch_norm_elemt(rows, weight, bias, mean, scale, 0.0)
    else:
        made = ((rows.float() - mean) * scale * weight + bias).to(x.dtype)
    return made.view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)


def resnet(block: ResnetBlock, parts: Sequence[Map]) -> Map:
    """`ResnetBlock` of the joined parts."""
    activated = normalised([convolved(block.conv1, normalised(parts, block.norm1))], block.norm2)
    h = convolved(block.conv2, activated)
    del activated
    shortcut = block.conv_shortcut
    if shortcut is None:
        (part,) = parts
        h.values.add_(part.values)
        return Map(h.values, _sum(h.bias, part.bias))
    rows = flat(h.values)
    start, bias = 0, _sum(h.bias, shortcut.bias)
    for part in parts:
        columns = part.values.shape[1]
        weight = shortcut.weight[:, start : start + columns, 0, 0]
        rows.addmm_(flat(part.values), weight.T)
        if part.bias is not None:
            bias = _sum(bias, weight.float() @ part.bias)
        start += columns
    return Map(h.values, bias)


def attention(block: AttentionBlock, x: Map) -> Map:
    """`AttentionBlock`; the bias of `x` goes on."""
    batch, width, height, columns = x.values.shape
    tokens = normalised([x], block.group_norm, activated=False).permute(0, 2, 3, 1).reshape(batch, -1, width)
    out = block.attended(tokens).view(batch, height, columns, width).permute(0, 3, 1, 2)
    return Map(out.add_(x.values), x.bias)


def down(level: DownLevel, x: Map, kept: list[Map]) -> Map:
    """`DownLevel`."""
    x = x.to(level.dtype)
    for index in range(len(level.resnets)):
        x = _layer(level, index, [x])
        kept.append(x)
    if level.downsamplers is not None:
        x = convolved(level.downsamplers[0].conv, x.added())
        kept.append(x)
    return x


def up(level: UpLevel, x: Map, kept: list[Map]) -> Map:
    """`UpLevel`."""
    for index in range(len(level.resnets)):
        x = _layer(level, index, [x, kept.pop()])
    if level.upsamplers is None:
        return x
    return convolved(level.upsamplers[0].conv, F.interpolate(x.added(), scale_factor=2.0, mode="nearest"))


def middle(level: MiddleLevel, x: Map) -> Map:
    """`MiddleLevel`."""
    return resnet(level.resnets[1], [_layer(level, 0, [x])])


def _layer(level: DownLevel | UpLevel | MiddleLevel, index: int, parts: Sequence[Map]) -> Map:
    x = resnet(level.resnets[index], parts)
    return x if level.attentions is None else attention(level.attentions[index], x)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other.float()
    return one + other
