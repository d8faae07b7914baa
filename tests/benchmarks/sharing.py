"""Attention sharing: what the units of SD1.5's UNet cost in one call, in every way of applying their updates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib_layerdiffusion.networks.attention_sharing import SharingRun, SharingUnit
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.networks.sharing_run import attend
from tests.benchmarks.reference import Reference
from tests.benchmarks.timing import Measure, Row, compare

CONTEXT = 768
LAYERS = ((1, 320, 5), (2, 640, 5), (4, 1280, 5), (8, 1280, 1))
"""(how many times smaller than the latent, channels, transformer blocks) of SD1.5's UNet: 16 blocks, 32 units."""


class BaseAttention(nn.Module):
    """An attention layer as hosts have it."""

    def __init__(self, channels: int, context: int | None) -> None:
        super().__init__()
        self.heads = 8
        source = context or channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(source, channels, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels), nn.Dropout(0.0)])

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        source = x if context is None else context
        return self.to_out[0](attend(self.to_q(x), self.to_k(source), self.to_v(source), self.heads))


Place = tuple[SharingUnit, BaseAttention, Tensor, "Tensor | None"]


def places(frames: int, side: int, device: torch.device, dtype: torch.dtype) -> list[Place]:
    """One unit, its layer, hidden states and context for each kind; two groups of frames, as guidance makes them."""
    torch.manual_seed(0)
    found: list[Place] = []
    for smaller, channels, blocks in LAYERS:
        tokens = (side // 8 // smaller) ** 2
        for context in (None, CONTEXT):
            base = BaseAttention(channels, context).eval().requires_grad_(False).to(device, dtype)
            unit = SharingUnit(channels, context, frames=frames, rank=256, signal_channels=None)
            unit = unit.eval().requires_grad_(False).to(device, dtype)
            hidden = torch.randn(2 * frames, tokens, channels, device=device, dtype=dtype)
            states = None if context is None else torch.randn(2 * frames, 77, CONTEXT, device=device, dtype=dtype)
            # Blocks of one kind stand in turn, as in the UNet: each has weights of its own.
            found += [(unit, base, hidden, states)] * blocks if blocks == 1 else []
            if blocks > 1:
                found += [(_again(unit), _again(base), hidden, states) for _ in range(blocks)]
    return found


def _again(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module)


@torch.no_grad()
def units(device: torch.device, reference: Reference | None, frames: int, side: int, measure: Measure) -> list[Row]:
    """All 32 units in one call of the UNet, as Forge, diffusers and the reference use them."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    all_places = places(frames, side, device, dtype)
    ways: dict[str, Callable[[], object]] = {}
    if reference is not None:
        theirs = [_theirs(reference, frames, place) for place in all_places]
        mark = torch.tensor([1.0] * frames + [0.0] * frames, device=device)
        options = {"cond_mark": mark, "cond_overwrite": []}
        ways["reference"] = lambda: [
            unit(hidden, context, transformer_options=options)
            for unit, (_, _, hidden, context) in zip(theirs, all_places, strict=True)
        ]
    usual = faster_precision(device, dtype)
    runs = {
        "ours": SharingRun(across_frames=usual),
        "ours, low-rank path alone": SharingRun(across_frames=usual, can_fold=lambda _layer, _rows: False),
    }
    if usual is not dtype:
        runs[f"ours, {dtype}".replace("torch.", "")] = SharingRun()
    for name, run in runs.items():
        ways[name] = lambda run=run: [unit(hidden, base, context, run) for unit, base, hidden, context in all_places]
    ways["plain layers"] = lambda: [base(hidden, context) for _, base, hidden, context in all_places]
    return compare(f"32 units, {frames} frames with guidance, {side}x{side}, {device}", ways, measure)


def _theirs(reference: Reference, frames: int, place: Place) -> nn.Module:
    unit, base, _, _ = place
    return reference.unit(base, frames, unit.state_dict())
