"""Numbers that no network can compute with: NaN, infinity, and what overflows at the next multiplication."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lib_layerdiffusion.errors import ModelError

LARGEST_LATENT = 1e4
"""Latents of pictures, in either scale, stay within a few tens."""
LARGEST = 1e6
"""Of a trained network's weights; the published ones stay far below it, and half precision ends at 65504."""


def broken_numbers(named: Iterable[tuple[str, Tensor]]) -> str:
    """What is wrong with the first tensor that has such numbers, in words; "" where none has.

    One pass over the memory: about 8 GB a second on a CPU.
    """
    for name, tensor in named:
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor
        low, high = (float(value) for value in torch.aminmax(values.detach()))
        if math.isnan(low) or math.isnan(high):
            return f'"{name}" has values that are no numbers (NaN)'
        extreme = max(-low, high)
        if math.isinf(extreme):
            return f'"{name}" has infinite values'
        if extreme > LARGEST:
            return f'"{name}" has values up to {extreme:.1e}'
    return ""


def check_sampled(latent: Tensor) -> None:
    """Make sure that a latent, of either scale, is one that a picture can be in.

    Raises:
        ModelError: it holds NaN, infinity, or numbers that are far beyond any picture's.
    """
    check_numbers(latent, "The model", LARGEST_LATENT)


def check_numbers(values: Tensor, maker: str, largest: float = math.inf) -> None:
    """Make sure that values are numbers, of which none is larger than `largest`.

    Raises:
        ModelError: they are not; the message says who made them.
    """
    extreme = float(values.detach().abs().max()) if values.numel() else 0.0
    if extreme <= largest and math.isfinite(extreme):
        return
    what = "values that are no numbers" if not math.isfinite(extreme) else f"values up to {extreme:.1e}"
    raise ModelError(
        f"{maker} has made {what} instead of a picture: its weights or those of the layer file are broken, or half "
        "precision is too small for it: choose another checkpoint, get the layer file again, or use float32."
    )
