"""How long the published decoder takes, and what layout, dtype, batches and the median's form are worth.

python -m tests.benchmarks.bench_decoder [side, default 512]
"""

from __future__ import annotations

import copy
import sys

import torch

from lib_layerdiffusion.networks import TransparentDecoder
from lib_layerdiffusion.transparency import LatentTransparency, lower_median
from tests.benchmarks.timing import report


@torch.no_grad()
def main(side: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    plain = TransparentDecoder().eval().requires_grad_(requires_grad=False).to(device)
    pixels = torch.rand(1, 3, side, side, device=device)
    latent = torch.randn(1, 4, side // 8, side // 8, device=device)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    pixels_last = pixels.contiguous(memory_format=torch.channels_last)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    last_half = copy.deepcopy(last).to(half)
    report(
        f"one pass, {side}x{side}, {device}",
        {
            "float32, contiguous": lambda: plain(pixels, latent),
            "float32, channels_last": lambda: last(pixels_last, latent),
            f"{half}, channels_last": lambda: last_half(pixels_last.to(half), latent.to(half)),
        },
    )
    decode = LatentTransparency(decoder=last_half if device.type == "cuda" else last).decode
    report(
        "eight passes and their median",
        {
            "one view at a time": lambda: decode(pixels, latent, memory_limit=1),
            "views batched, 1 GiB": lambda: decode(pixels, latent, memory_limit=1 << 30),
            "views batched, 16 GiB": lambda: decode(pixels, latent, memory_limit=16 << 30),
        },
        rounds=1,
    )
    views = [torch.rand(1, 4, side, side, device=device) for _ in range(8)]
    report(
        "median of eight results",
        {
            "torch.median, rank 5": lambda: torch.stack(views).median(dim=0).values,
            "minima and maxima": lambda: lower_median(views),
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
