"""Attention of many narrow heads on a CPU that multiplies bfloat16.

torch's kernel is made for wide heads and spends its time on the exponential and on products of single precision; the
decoder's heads are eight channels wide, so that a score costs little more than its exponential. Here scores are
products in bfloat16, powers of two (which have a short series) take the exponential's place, and what they add up to
comes as one more column of the values. At 32x32 positions that is 0.4 of the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

_SCORES = 1 << 19
"""Scores that are worked on at once: a megabyte, which stays in a core's cache."""
_LARGEST = 100.0
"""Powers of two up to this one can be summed in bfloat16 without subtracting the largest first."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, [B, heads, N, D] each -> [B, heads, N, D].

    In another way than torch's only where this is faster: bfloat16 on a CPU, no gradients. Its scores then have
    bfloat16's precision; where they could be too large for that way, torch's is taken.
    """
    special = q.dtype is torch.bfloat16 and q.device.type == "cpu" and not torch.is_grad_enabled()
    if not special or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v)
    scaled = q * (math.log2(math.e) / math.sqrt(q.shape[-1]))
    if _largest_score(scaled, k) > _LARGEST:
        return F.scaled_dot_product_attention(q, k, v)
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    sums = _weighted(scaled.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), values.flatten(0, 1))
    return (sums[..., :-1] / sums[..., -1:]).view_as(q)


def _largest_score(q: Tensor, k: Tensor) -> float:
    """What no score exceeds, by the vectors' lengths."""
    lengths = [float(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).amax()) for x in (q, k)]
    return lengths[0] * lengths[1]


def _weighted(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """Values weighted with two to the power of scores: q [G, N, D], k [G, D, M], values [G, M, E] -> [G, N, E]."""
    groups, tokens, _ = q.shape
    out = torch.empty(groups, tokens, values.shape[-1], dtype=q.dtype)
    rows = max(1, min(tokens, _SCORES // k.shape[-1]))
    together = max(1, _SCORES // (rows * k.shape[-1]))
    buffer = torch.empty(min(together, groups), rows, k.shape[-1], dtype=q.dtype)
    for group in range(0, groups, together):
        some = slice(group, group + together)
        for row in range(0, tokens, rows):
            part = q[some, row : row + rows]
            scores = torch.bmm(part, k[some], out=buffer[: part.shape[0], : part.shape[1]]).exp2_()
            out[some, row : row + rows] = torch.bmm(scores, values[some])
    return out
