"""Attention of many narrow heads on a CPU.

torch's kernel is made for wide heads; the decoder's are eight channels wide, so that a score costs little more than its
exponential. Here powers of two (which have a short series) take the exponential's place, what they add up to comes as
one more column of the values, and products are arranged so that their long sides lie where libraries are fast: keys
times queries, values times scores. At 32x32 positions that is half of torch's time in float32, a third in bfloat16.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from lib_layerdiffusion.networks.opaque import left_alone, opaque

_PIECE = 1 << 20
"""Bytes of scores that a core works on at once: they stay in its cache."""
_LARGEST = 100.0
"""Powers of two up to this one can be summed without subtracting the largest first."""
_ROUNDS = 32
"""So often may cores meet in a call: where other programs hold one of them up, each time costs milliseconds."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, [B, heads, N, D] each -> [B, heads, N, D].

    In another way than torch's only where this is faster: on a CPU, without gradients. In bfloat16 its scores have that
    type's precision; where they could be too large for that way, torch's is taken.
    """
    special = q.dtype in (torch.float32, torch.bfloat16) and q.device.type == "cpu" and not torch.is_grad_enabled()
    if not special or torch.compiler.is_compiling():  # where the compiler does look in, for want of `opaque`
        return F.scaled_dot_product_attention(q, k, v)
    scaled = q * (math.log2(math.e) / math.sqrt(q.shape[-1]))
    if not _largest_score(scaled, k) <= _LARGEST:  # also where it is no number
        return F.scaled_dot_product_attention(q, k, v)
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    sums = _weighted(scaled.flatten(0, 1), k.flatten(0, 1), values.flatten(0, 1).transpose(1, 2))
    return (sums[:, :-1] / sums[:, -1:]).transpose(1, 2).unflatten(0, q.shape[:2])


def _of_tokens(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    heads = (x.unflatten(-1, (-1, width)).transpose(1, 2) for x in (q, k, v))
    return attend(*heads).transpose(1, 2).flatten(2).contiguous()


_opaque_of_tokens = opaque("attention", "(Tensor q, Tensor k, Tensor v, int width) -> Tensor", _of_tokens)


def attend_tokens(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    """Attention of heads one behind the other, each `width` wide: [B, N, heads * width] each -> the same shape."""
    return (_opaque_of_tokens if left_alone(q) else _of_tokens)(q, k, v, width)


def _largest_score(q: Tensor, k: Tensor) -> float:
    """What no score exceeds, by the vectors' lengths."""
    lengths = [float(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).amax()) for x in (q, k)]
    return lengths[0] * lengths[1]


def _weighted(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """Values weighted with two to the power of scores: q [G, N, D], k [G, M, D], values [G, E, M] -> [G, E, N]."""
    groups, tokens, _ = q.shape
    keys, threads = k.shape[1], torch.get_num_threads()
    out = torch.empty(groups, values.shape[1], tokens, dtype=q.dtype)
    most = _PIECE // q.element_size() // keys
    rows = max(1, min(tokens, most))
    together = max(1, most // rows)
    if threads > 1:
        pieces = groups * math.ceil(tokens / rows)
        together = max(together * threads, math.ceil(pieces / _ROUNDS))
    together = min(groups, together)
    buffer = torch.empty(together, keys, rows, dtype=q.dtype)
    for group in range(0, groups, together):
        some = slice(group, group + together)
        for row in range(0, tokens, rows):
            part = q[some, row : row + rows].transpose(1, 2)
            scores = torch.bmm(k[some], part, out=buffer[: part.shape[0], :, : part.shape[2]]).exp2_()
            out[some, :, row : row + rows] = torch.bmm(values[some], scores)
    return out
