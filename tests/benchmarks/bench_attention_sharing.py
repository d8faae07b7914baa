"""What an attention-sharing unit costs beside its plain layer, and what folding is worth, at SD1.5's four sizes.

python -m tests.benchmarks.bench_attention_sharing [frames, default 3]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from lib_layerdiffusion.networks.attention_sharing import SharingRun, SharingUnit
from lib_layerdiffusion.networks.sharing_run import attend
from tests.benchmarks.timing import report

SIZES = ((64, 320), (32, 640), (16, 1280), (8, 1280))
"""Side of the token grid at 512x512, channels."""


class BaseAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = 8
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


@torch.no_grad()
def compare(frames: int, side: int, channels: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unit = SharingUnit(channels, None, frames=frames, rank=256, signal_channels=None).to(device, dtype)
    base = BaseAttention(channels).to(device, dtype)
    hidden = torch.randn(2 * frames, side * side, channels, device=device, dtype=dtype)
    folding, factors = SharingRun(), SharingRun(can_fold=lambda _: False)
    report(
        f"{frames} frames with guidance, {side}x{side} tokens, {channels} channels, {device}",
        {
            "products multiplied out in every call": lambda: unit(hidden, base, None, SharingRun()),
            "low-rank path": lambda: unit(hidden, base, None, factors),
            "products folded once": lambda: unit(hidden, base, None, folding),
            "the plain layer": lambda: base(hidden),
        },
        rounds=5,
    )


def main(frames: int) -> None:
    for side, channels in SIZES:
        compare(frames, side, channels)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
