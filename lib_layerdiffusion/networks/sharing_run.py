"""What the attention-sharing units of one run share: strength, contexts, signals, and what is computed only once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

T = TypeVar("T")
_RATIO_TOLERANCE = 0.25
"""How far, as a logarithm, rounding may take the ratio of a few tokens' sides from that of the picture."""

_PIECE = 1 << 16
"""Numbers of a frame that attention over frames takes at once on a CPU: with their products they stay in its cache."""


class AttentionLayer(Protocol):
    """What a host's attention layer has to offer; Forge's and diffusers' both do."""

    heads: int
    to_q: Callable[[Tensor], Tensor]
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    to_out: Sequence[Callable[[Tensor], Tensor]]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention, q [B, N, C], k and v [B, M, C] -> [B, N, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_over_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention along the first axis of [frames, positions, heads, d], position by position; q is scaled already.

    Batched products of tiny matrices: the usual kernels are made for few long sequences, take several times as long for
    thousands of two or three, and many refuse more than 65,535 of them. On a CPU adding the few frames up, in float32
    and in pieces that stay in its cache, takes less than two thirds of their time.
    """
    if q.device.type != "cpu" or torch.is_grad_enabled():
        weights = torch.einsum("iphd,jphd->phij", q, k).softmax(-1)
        return torch.einsum("phij,jphd->iphd", weights, v)
    result = torch.empty_like(q, memory_format=torch.contiguous_format)
    step = max(1, _PIECE // q[0, 0].numel())
    for start in range(0, q.shape[1], step):
        piece = slice(start, start + step)
        result[:, piece] = _added_up(*(x[:, piece].to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v)))
    return result


def _added_up(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    of_frame = (q[:, None] * k[None]).sum(-1).softmax(1).unsqueeze(-1)
    total = of_frame[:, 0] * v[0]
    for frame in range(1, len(v)):
        total.addcmul_(of_frame[:, frame], v[frame])
    return total


def is_plain_linear(layer: object, rows: Tensor | None = None) -> bool:
    """Whether a layer is torch's own linear one, so that an update can be folded into its weight."""
    del rows
    return type(layer) is nn.Linear


def is_weight_product(layer: object, rows: Tensor) -> bool:
    """Whether what a layer makes of `rows` [n, C_in] is its weight's product, to the bit, and nothing else.

    Asks the layer itself, because hosts have many kinds: some cast, unpack or change their weight in every call.
    """
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not callable(layer) or not isinstance(weight, Tensor) or weight.ndim != 2:
        return False
    if type(weight) not in (Tensor, nn.Parameter):  # packed, or cast when it is used
        return False
    if any(part is not None and (part.dtype, part.device) != (rows.dtype, rows.device) for part in (weight, bias)):
        return False
    made = layer(rows)
    return isinstance(made, Tensor) and torch.equal(made, functional.linear(rows, weight, bias))


@dataclass
class _Kept:
    """A value and the tensors that it follows from; `state` tells whether they have changed since."""

    sources: tuple[Tensor, ...]
    state: tuple[Any, ...]
    value: Any

    def is_of(self, sources: tuple[Tensor, ...], state: tuple[Any, ...]) -> bool:
        """Whether it follows from these, as they are now."""
        same = len(sources) == len(self.sources) and all(a is b for a, b in zip(sources, self.sources, strict=True))
        return same and state == self.state


def _state(tensor: Tensor) -> tuple[Any, ...]:
    return (0 if tensor.is_inference() else tensor._version, tensor.device, tensor.dtype)


@dataclass
class SharingRun:
    """What the units of one run share.

    frame_contexts: per frame a context [1, M, D] that replaces the batch's in conditional rows, or None.
    signals: tokens -> condition signal [1, 256, h, w]. weight: scales every learned addition; 0 is the plain layer.
    can_fold: tells of one of the UNet's linear layers and a few rows of its input whether updates may be folded into
    its weight; asked once, and again when the weight is another one.
    attention: the host's kernel, (q [B, N, C], k [B, M, C], v [B, M, C], heads) -> [B, N, C].
    replacement: in place of `attention` for the call of one layer, or None: what another extension put there, from q, k
    and v in the batch's own order of rows.
    across_frames: the dtype in which frames attend to each other, None for that of the hidden states.
    conditional: bool [B], set by the host before every call of the UNet: the rows that follow the prompt; without it
    there are no frame contexts.
    """

    frame_contexts: Sequence[Tensor | None] = ()
    signals: Mapping[int, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    attention: Callable[[Tensor, Tensor, Tensor, int], Tensor] = attend
    can_fold: Callable[[object, Tensor], bool] = is_plain_linear
    replacement: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    across_frames: torch.dtype | None = None
    conditional: Tensor | None = None
    _kept: dict[Hashable, _Kept] = field(default_factory=dict, repr=False)
    _contexts: tuple[Tensor, Tensor, object, Tensor] | None = field(default=None, repr=False)
    _resized: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _text: Tensor | None = field(default=None, repr=False)

    def once(self, key: Hashable, source: Tensor | tuple[Tensor, ...], make: Callable[[], T]) -> T:
        """`make()`, computed anew only when a source is another tensor or was written to; not kept under autograd."""
        if torch.is_grad_enabled():
            return make()
        sources = source if isinstance(source, tuple) else (source,)
        state = tuple(map(_state, sources))
        kept = self._kept.get(key)
        if kept is None or not kept.is_of(sources, state):
            kept = self._kept[key] = _Kept(sources, state, make())
        return kept.value

    def forget(self) -> None:
        """Drop everything that was computed once: products with the UNet's weights, signals' additions, contexts."""
        self._kept.clear()
        self._resized.clear()
        self._contexts = self._text = None

    def unchanged(self, context: Tensor) -> Tensor | None:
        """A copy of a context that is the same object from step to step, as long as all values are the same.

        Hosts hand over another tensor at every step. None where comparing would be no cheaper than computing anew: a
        GPU would have to be waited for.
        """
        if context.device.type != "cpu" or torch.is_grad_enabled():
            return None
        kept = self._text
        if kept is None or kept.dtype is not context.dtype or not torch.equal(kept, context):
            kept = self._text = context.clone()
        return kept

    @property
    def signal_size(self) -> tuple[int, int] | None:
        """Height and width of the latent that the condition signals are made for, None where there are none."""
        if not self.signals:
            return None
        height, width = self.signals[max(self.signals)].shape[-2:]
        return height, width

    def signal(self, tokens: int) -> Tensor | None:
        """The condition signal for a layer of that many tokens, None where the picture cannot have such a size.

        A UNet that is made to work on fewer tokens than its own (Kohya's HRFix) gets the signal of the next larger
        size, resampled.
        """
        found = self.signals.get(tokens, self._resized.get(tokens))
        if found is not None or not self.signals:
            return found
        larger = min((count for count in self.signals if count > tokens), default=max(self.signals))
        source = self.signals[larger]
        size = _nearest_size(tokens, source.shape[-2] / source.shape[-1])
        if size is None:
            return None
        resized = functional.interpolate(source.float(), size=size, mode="bilinear", antialias=True).to(source)
        self._resized[tokens] = resized
        return resized

    def contexts(self, context: Tensor, frames: int) -> Tensor:
        """The context of every row: a frame's own in its conditional rows, the batch's elsewhere.

        Lengths that differ are repeated to their least common multiple, which leaves attention as it is. Computed anew
        where `context`, `conditional` or `frame_contexts` is another object: all units of a UNet call share the result.
        """
        conditional = self.conditional
        own = [*self.frame_contexts, *[None] * frames][:frames]
        if conditional is None or all(item is None for item in own):
            return context
        kept = self._contexts
        if kept is None or kept[0] is not context or kept[1] is not conditional or kept[2] is not self.frame_contexts:
            rows = _with_frame_contexts(context, own, conditional.to(context.device))
            kept = self._contexts = (context, conditional, self.frame_contexts, rows)
        return kept[3]


def _with_frame_contexts(context: Tensor, own: Sequence[Tensor | None], conditional: Tensor) -> Tensor:
    length = math.lcm(context.shape[1], *(item.shape[1] for item in own if item is not None))
    rows = context.repeat(1, length // context.shape[1], 1)
    for frame, item in enumerate(own):
        if item is not None:
            of_frame = slice(frame, None, len(own))
            replacement = item.to(rows).repeat(1, length // item.shape[1], 1)
            rows[of_frame] = torch.where(conditional[of_frame, None, None], replacement, rows[of_frame])
    return rows


def _nearest_size(tokens: int, ratio: float) -> tuple[int, int] | None:
    """Height and width with that product whose ratio comes nearest to `ratio`; None where none comes near."""
    heights = [height for height in range(1, tokens + 1) if tokens % height == 0]
    height = min(heights, key=lambda side: abs(math.log(side * side / tokens / ratio)))
    return (height, tokens // height) if abs(math.log(height * height / tokens / ratio)) <= _RATIO_TOLERANCE else None
