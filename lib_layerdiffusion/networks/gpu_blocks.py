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
from collections.abc import Iterator, Sequence
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
    """[B, C, H, W] in channels_last, of which `bias` [C] has not been added yet."""

    values: Tensor
    bias: Tensor | None = None

    def added(self) -> Tensor:
        """The values with their bias, for everyone who holds this map."""
        if self.bias is not None:
            self.values.add_(self.bias[:, None, None])
            self.bias = None
        return self.values

    def to(self, dtype: torch.dtype) -> Map:
        """The map in another precision."""
        if self.values.dtype is dtype:
            return self
        return Map(self.values.to(dtype), None if self.bias is None else self.bias.to(dtype))


def fits(pixels: Tensor) -> bool:
    """Whether these blocks are to be taken: a GPU of Nvidia, no gradients, and torch.compile does not do better."""
    nvidia = pixels.device.type == "cuda" and not torch.version.hip
    return nvidia and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def convolved(convolution: nn.Conv2d, x: Tensor) -> Map:
    """A convolution whose bias waits."""
    return Map(F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding), convolution.bias)


def normalised(parts: Sequence[Map], norm: nn.GroupNorm, *, activated: bool = True) -> Tensor:
    """GroupNorm of the joined parts, and SiLU of it: parts [B, C_i, H, W] -> [B, sum of C_i, H, W]."""
    first = parts[0].values
    batch, _, height, width = first.shape
    bias = _joined_bias(parts)
    if batch == len(parts) == 1:
        (scaled,) = _normalised([first], bias, norm)
        return F.silu(scaled, inplace=True) if activated else scaled
    shape = (batch, norm.num_channels, height, width)
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    for index in range(batch):
        here = slice(index, index + 1)
        targets = out[here].split([part.values.shape[1] for part in parts], 1)
        for scaled, target in zip(_normalised([part.values[here] for part in parts], bias, norm), targets, strict=True):
            if activated:
                torch.ops.aten.silu.out(scaled, out=target)
            else:
                target.copy_(scaled)
    return out


def _joined_bias(parts: Sequence[Map]) -> Tensor | None:
    """What has not been added to the parts yet, [C]; None where all has."""
    if all(part.bias is None for part in parts):
        return None
    biases = [part.values.new_zeros(part.values.shape[1]) if part.bias is None else part.bias for part in parts]
    return biases[0] if len(biases) == 1 else torch.cat(biases)


def _normalised(parts: Sequence[Tensor], bias: Tensor | None, norm: nn.GroupNorm) -> Iterator[Tensor]:
    """GroupNorm of the joined parts [1, C_i, H, W], one part after the other, computed in float32.

    Every line is a kernel or two, and starting one takes longer than what it does with a few hundred numbers: so
    positions of a row, channels and groups are taken together at once, and none of it is in a function by itself.
    """
    rows = _rows(parts)
    moments = [_moments(values, norm.eps) for values in rows]
    several = rows[0].shape[1] // parts[0].shape[1]
    mean, spread = (_joined([each[what].view(several, -1) for each in moments]) for what in (0, 1))
    mean, spread = (x.view(several, norm.num_groups, -1) for x in (mean, spread))
    if bias is not None:
        bias = bias.view(norm.num_groups, -1)
        mean = mean + bias
    between, middle = torch.var_mean(mean, (0, 2), correction=0, keepdim=True)
    spread = between.add_(spread.mean((0, 2), keepdim=True))
    vectors = mean.new_empty(4, *mean.shape)
    torch.sub(middle.expand_as(mean), 0 if bias is None else bias, out=vectors[0])
    torch.rsqrt(spread.expand_as(mean), out=vectors[1])
    vectors[2].copy_(norm.weight.view_as(mean[0]))
    vectors[3].copy_(norm.bias.view_as(mean[0]))
    channels = vectors.view(4, several, -1).split([part.shape[1] for part in parts], 2)
    for part, values, own in zip(parts, rows, channels, strict=True):
        yield _scaled(values, *own.flatten(1)).view(part.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _rows(parts: Sequence[Tensor]) -> list[Tensor]:
    """[1, C_i, H, W] in channels_last as rows of as many positions each, one or more, a view."""
    positions = parts[0].shape[-1] * parts[0].shape[-2]
    several = math.gcd(positions, max(1, _ROW // max(part.shape[1] for part in parts)))
    return [part.permute(0, 2, 3, 1).reshape(positions // several, -1) for part in parts]


def _moments(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean, and variance plus `eps`, of every column, float32."""
    if rows.device.type == "cuda":
        mean, inverse = torch.batch_norm_stats(rows, eps)
        return mean, inverse.pow_(-2)
    spread, mean = torch.var_mean(rows.float(), 0, correction=0)
    return mean, spread.add_(eps)


def _scaled(rows: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`(rows - mean) * scale * weight + bias`, vectors in float32."""
    if rows.device.type == "cuda":
        return torch.batch_norm_elemt(rows, weight, bias, mean, scale, 0.0)
    return ((rows.float() - mean) * scale * weight + bias).to(rows.dtype)


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
            bias = weight @ part.bias if bias is None else torch.addmv(bias, weight, part.bias)
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
    if one is None:
        return other
    return one if other is None else one + other
