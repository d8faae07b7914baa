"""Numbers that no network can compute with: NaN, infinity, and what overflows at the next multiplication."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

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
        low, high = (float(value) for value in torch.aminmax(values))
        if math.isnan(low) or math.isnan(high):
            return f'"{name}" has values that are no numbers (NaN)'
        extreme = max(-low, high)
        if math.isinf(extreme):
            return f'"{name}" has infinite values'
        if extreme > LARGEST:
            return f'"{name}" has values up to {extreme:.1e}'
    return ""
