"""Building blocks of the transparency decoder's U-Net; names of their parts are those of the published state dict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from lib_layerdiffusion.networks.cpu_attention import attend_tokens
from lib_layerdiffusion.networks.opaque import left_alone, opaque


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activated: bool) -> Tensor:  # noqa: FBT001 (an operator's arguments have places)
    normal = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(normal, inplace=True) if activated else normal


_opaque_normalised = opaque(
    "group_norm", "(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool activated) -> Tensor", _normalised
)


def group_norm(x: Tensor, norm: nn.GroupNorm, channels: slice = slice(None), *, activated: bool = True) -> Tensor:
    """GroupNorm of [B, C, H, W], and SiLU of it in the memory of the result.

    channels: which of the norm's `x` has, whole groups.
    """
    groups = x.shape[1] * norm.num_groups // norm.num_channels
    made = _opaque_normalised if left_alone(x) else _normalised
    return made(x, norm.weight[channels], norm.bias[channels], groups, norm.eps, activated)


def convolved(conv: nn.Conv2d, parts: Sequence[Tensor], norm: nn.GroupNorm | None = None) -> Tensor:
    """A convolution of maps that lie one behind the other along the channels, without joining them.

    norm: normalises and activates them first; no group of it may lie in two of them.
    """
    start, total = 0, None
    for part in parts:
        channels = slice(start, start + part.shape[1])
        one = F.conv2d(
            part if norm is None else group_norm(part, norm, channels),
            conv.weight[:, channels],
            conv.bias if total is None else None,
            padding=conv.padding,
        )
        total = one if total is None else total.add_(one)
        start = channels.stop
    if total is None:
        raise ValueError("there is no map to convolve")
    return total


def _add_shortcut(h: Tensor, shortcut: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """Add a 1x1 convolution of the joined parts to `h`, in place."""
    wanted = h.dtype is torch.float32 and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not wanted or not all(x.is_contiguous(memory_format=torch.channels_last) for x in (h, *parts)):
        return h.add_(convolved(shortcut, parts))
    # Products of matrices add to what is there: two passes less over maps that are larger than a cache. In bfloat16
    # a sum would be rounded once more.
    start = 0
    for part in parts:
        channels = slice(start, start + part.shape[1])
        flat(h).addmm_(flat(part), shortcut.weight[:, channels, 0, 0].T)
        start = channels.stop
    return h if shortcut.bias is None else h.add_(shortcut.bias[:, None, None])


def flat(x: Tensor) -> Tensor:
    """[B, C, H, W] in channels_last as [B * H * W, C], a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _can_stay_apart(parts: Sequence[Tensor], norm: nn.GroupNorm) -> bool:
    """Whether parts need not be joined: it takes as long, and less memory where the network takes most of it.

    In bfloat16 a sum of two convolutions would be rounded once more.
    """
    whole_groups = all(part.shape[1] * norm.num_groups % norm.num_channels == 0 for part in parts)
    return whole_groups and parts[0].dtype is torch.float32 and not torch.is_grad_enabled()


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut: [B, width_in, H, W] -> [B, width_out, H, W]."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, *parts: Tensor) -> Tensor:
        """parts: maps of one size that lie one behind the other along the channels."""
        apart = len(parts) == 1 or _can_stay_apart(parts, self.norm1)
        given: Sequence[Tensor] = parts if apart else [torch.cat(parts, dim=1)]
        # Nothing is held here that the next step does not read.
        h = self.conv2(group_norm(convolved(self.conv1, given, self.norm1), self.norm2))
        if self.conv_shortcut is None:
            return h.add_(given[0])
        return _add_shortcut(h, self.conv_shortcut, given)


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
        tokens = (
            group_norm(x, self.group_norm, activated=False).permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        )
        out = self.attended(tokens).view(batch, height, columns, width).permute(0, 3, 1, 2)
        return out.add_(x)

    def attended(self, tokens: Tensor) -> Tensor:
        """What attention makes of normalised tokens, [B, N, C] -> [B, N, C]."""
        q, k, v = (project(tokens) for project in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](attend_tokens(q, k, v, self.head_width))


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
        weight = self.conv.weight
        # Making the kernel costs as much as it saves where maps are small; on GPUs nobody has measured it.
        worth_it = x.device.type == "cpu" and x.shape[0] * x.shape[2] * x.shape[3] >= 2 * weight.shape[0]
        if worth_it and not torch.is_grad_enabled():
            return F.conv_transpose2d(x, doubling_kernel(weight), self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def doubling_kernel(weight: Tensor) -> Tensor:
    """What a 3x3 convolution becomes where its input would be doubled by repeating every value.

    weight: [O, I, 3, 3]. Returns [I, O, 4, 4] for a transposed convolution of stride 2 and padding 1, which reads four
    values of the small map for one of the large where the convolution reads nine, of which several are the same.
    """
    sums = weight.new_tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    return torch.einsum("ak,bl,oikl->ioab", sums, sums, weight.flip(2, 3))


class _Level(nn.Module):
    """One resolution of the U-Net, down or up: residual layers, attention after each where `head_width` is given."""

    def __init__(self, widths_in: Sequence[int], width: int, head_width: int | None, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(width_in, width, groups) for width_in in widths_in])
        self.attentions: nn.ModuleList | None = None
        if head_width is not None:
            self.attentions = nn.ModuleList([AttentionBlock(width, head_width, groups) for _ in widths_in])

    @property
    def dtype(self) -> torch.dtype:
        """In which the level computes."""
        return next(self.parameters()).dtype

    def layer(self, index: int, *parts: Tensor) -> Tensor:
        x = self.resnets[index](*parts)
        return x if self.attentions is None else self.attentions[index](x)


class DownLevel(_Level):
    """[B, width_in, H, W] -> [B, width, H/2, W/2] (H, W at the last level); keeps every result for the way up."""

    def __init__(
        self, width_in: int, width: int, layers: int, head_width: int | None, groups: int, *, last: bool
    ) -> None:
        super().__init__([width_in] + [width] * (layers - 1), width, head_width, groups)
        self.downsamplers = None if last else nn.ModuleList([Downsample(width)])

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        x = x.to(self.dtype)
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
            x = self.layer(index, x, kept.pop())
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MiddleLevel(_Level):
    """Residual layer, attention, residual layer at the lowest resolution: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, width: int, head_width: int, groups: int) -> None:
        super().__init__([width, width], width, None, groups)
        self.attentions = nn.ModuleList([AttentionBlock(width, head_width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.layer(0, x))
