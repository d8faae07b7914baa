"""Small transparent encoder and decoder for training, with the published state-dict names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

GROUPS, HEAD_CHANNELS, LATENT_LEVEL = 4, 8, 3


class TransparentEncoder(nn.Module):
    """Nine convolutions, three of stride 2; alpha and padded RGB [N, 4, H, W] -> offset [N, 4, H/8, W/8]."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 4
        for index, width in enumerate(widths):
            stride = 2 if index in (2, 4, 6) else 1
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.SiLU()]
            before = width
        last = nn.Conv2d(before, 4, 3, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.blocks = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class _Residual(nn.Module):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inside, eps=1e-5)
        self.conv1 = nn.Conv2d(inside, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out, eps=1e-5)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, out, 1) if inside != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width, eps=1e-5)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(tokens).reshape(n, h * w, c // HEAD_CHANNELS, HEAD_CHANNELS).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.to_out[0](out).transpose(1, 2).reshape(n, c, h, w)


class _Block(nn.Module):
    def __init__(self, inside: Sequence[int], out: int, *, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(width, out) for width in inside)
        if attends:
            self.attentions = nn.ModuleList(_Attention(out) for _ in inside)

    def layer(self, index: int, x: Tensor) -> Tensor:
        x = self.resnets[index](x)
        return self.attentions[index](x) if hasattr(self, "attentions") else x


class _Resampler(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, 1)


class TransparentDecoder(nn.Module):
    """U-Net on the VAE's picture [N, 3, H, W] with the latent [N, 4, H/8, W/8] added; returns alpha, R, G, B."""

    def __init__(self, widths: Sequence[int], layers: int = 1, attention_levels: int = 1) -> None:
        super().__init__()
        levels = len(widths)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(4, widths[LATENT_LEVEL - 1], 1)
        skips = [widths[0]]
        self.down_blocks = nn.ModuleList()
        width = widths[0]
        for level, out in enumerate(widths):
            block = _Block([width] + [out] * (layers - 1), out, attends=level >= levels - attention_levels)
            skips += [out] * layers
            if level < levels - 1:
                block.downsamplers = nn.ModuleList([_Resampler(out, 2)])
                skips.append(out)
            self.down_blocks.append(block)
            width = out
        self.mid_block = _Block([width, width], width, attends=False)
        self.mid_block.attentions = nn.ModuleList([_Attention(width)])
        self.up_blocks = nn.ModuleList()
        for level, out in enumerate(reversed(widths)):
            inside = []
            for _ in range(layers + 1):
                inside.append(width + skips.pop())
                width = out
            block = _Block(inside, out, attends=level < attention_levels)
            if level < levels - 1:
                block.upsamplers = nn.ModuleList([_Resampler(out, 1)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(GROUPS, width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        skips = [x]
        for level, block in enumerate(self.down_blocks):
            if level == LATENT_LEVEL:
                x = x + self.latent_conv_in(latent)
            for index in range(len(block.resnets)):
                x = block.layer(index, x)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0].conv(x)
                skips.append(x)
        x = self.mid_block.resnets[1](self.mid_block.attentions[0](self.mid_block.resnets[0](x)))
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = block.layer(index, torch.cat([x, skips.pop()], dim=1))
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))
