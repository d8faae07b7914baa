"""Attention sharing: units around a UNet's attention layers through which the frames of one picture see each other.

A frame is a layer of the picture (foreground, background, blended); rows of the batch are frames of consecutive
pictures. Module names are those of the published SD1.5 files. The units never own or change the UNet's layers: they are
handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_layerdiffusion.errors import InputError, WeightsError
from lib_layerdiffusion.networks.loading import count_indices, load_strictly

SIGNAL_CHANNELS = 256
PROJECTIONS = ("q", "k", "v", "out")


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


def is_plain_linear(layer: object) -> bool:
    """Whether a layer's output is its weight's product and nothing else, so that an update can be folded into it."""
    return type(layer) is nn.Linear


@dataclass
class SharingRun:
    """What the units of one run share.

    frame_contexts: per frame a context [1, M, D] that replaces the batch's in conditional rows, or None.
    signals: tokens -> condition signal [1, 256, h, w]. weight: scales every learned addition; 0 is the plain layer.
    can_fold: tells for which of the UNet's linear layers the updates may be multiplied out once per run.
    conditional: bool [B], set by the host before every call of the UNet: the rows that follow the prompt.
    """

    frame_contexts: Sequence[Tensor | None] = ()
    signals: Mapping[int, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    attention: Callable[[Tensor, Tensor, Tensor, int], Tensor] = attend
    can_fold: Callable[[object], bool] = is_plain_linear
    conditional: Tensor | None = None
    _kept: dict[Hashable, tuple[object, Any]] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, source: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, computed anew only when `source` is another tensor or was written to; not kept under autograd."""
        if torch.is_grad_enabled():
            return make()
        version = 0 if source.is_inference() else source._version
        state = (source, version, source.device, source.dtype)
        kept = self._kept.get(key)
        if kept is None or kept[0][0] is not source or kept[0][1:] != state[1:]:  # type: ignore[index]
            kept = self._kept[key] = (state, make())
        return kept[1]

    def contexts(self, context: Tensor, frames: int) -> Tensor:
        """The context of every row: a frame's own in its conditional rows, the batch's elsewhere.

        Lengths that differ are repeated to their least common multiple, which leaves attention as it is.
        """
        own = [self.frame_contexts[i] if i < len(self.frame_contexts) else None for i in range(frames)]
        if self.conditional is None or all(item is None for item in own):
            return context
        length = math.lcm(context.shape[1], *(item.shape[1] for item in own if item is not None))
        rows = context.repeat(1, length // context.shape[1], 1)
        conditional = self.conditional.to(context.device)
        for frame, item in enumerate(own):
            if item is None:
                continue
            replacement = item.to(rows).repeat(1, length // item.shape[1], 1)
            follows = conditional[frame::frames, None, None]
            rows[frame::frames] = torch.where(follows, replacement, rows[frame::frames])
        return rows


class LowRank(nn.Module):
    """A low-rank update of a linear layer: `up(down(x))`."""

    def __init__(self, width_in: int, width_out: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width_in, rank, bias=False)
        self.up = nn.Linear(rank, width_out, bias=False)
        nn.init.zeros_(self.up.weight)


class SharingUnit(nn.Module):
    """The additions to one attention layer.

    channels: width of the hidden states. context_channels: width of the context, None for self-attention.
    """

    def __init__(
        self, channels: int, context_channels: int | None, *, frames: int, rank: int, signal_channels: int | None
    ) -> None:
        super().__init__()
        self.frames = frames
        width_in = {"q": channels, "out": channels}
        for name in PROJECTIONS:
            source = width_in.get(name, context_channels or channels)
            setattr(self, f"to_{name}_lora", nn.ModuleList(LowRank(source, channels, rank) for _ in range(frames)))
        self.temporal_i = nn.Linear(channels, channels)
        self.temporal_n = nn.LayerNorm(channels, eps=1e-6)
        self.temporal_q = nn.Linear(channels, channels)
        self.temporal_k = nn.Linear(channels, channels)
        self.temporal_v = nn.Linear(channels, channels)
        self.temporal_o = nn.Linear(channels, channels)
        nn.init.zeros_(self.temporal_o.weight)
        nn.init.zeros_(self.temporal_o.bias)
        if signal_channels is not None:
            self.control_convs = nn.ModuleList(_control_layers(signal_channels, channels) for _ in range(frames))
        else:
            self.control_convs = None

    def forward(self, hidden: Tensor, attention: AttentionLayer, context: Tensor | None, run: SharingRun) -> Tensor:
        """What stands in for `attention(hidden, context)`.

        hidden: [B, N, C], B a multiple of the frames, row i being frame i mod frames. context: [B, M, D], None for
        self-attention. Returns [B, N, C], to be added to `hidden` by the block.

        Raises:
            InputError: B is no multiple of the frames, or a condition signal for N tokens is missing.
        """
        if run.weight == 0:
            source = hidden if context is None else context
            q, k, v = attention.to_q(hidden), attention.to_k(source), attention.to_v(source)
            return attention.to_out[0](run.attention(q, k, v, attention.heads))
        rows, tokens, channels = hidden.shape
        if rows % self.frames:
            raise InputError(f"The batch size must be a multiple of {self.frames} for this method; {rows} is not.")
        states = hidden.view(-1, self.frames, tokens, channels).transpose(0, 1)
        if self.control_convs is not None:
            states = states + run.weight * self._control(tokens, hidden, run)
        states = states.reshape(rows, tokens, channels)
        if context is None:
            source = states
        else:
            by_row = run.once(("context", self.frames), context, lambda: run.contexts(context, self.frames))
            source = by_row.unflatten(0, (-1, self.frames)).transpose(0, 1).flatten(0, 1)
        q = self._project("q", states, attention.to_q, run)
        k = self._project("k", source, attention.to_k, run)
        v = self._project("v", source, attention.to_v, run)
        states = states + self._project("out", run.attention(q, k, v, attention.heads), attention.to_out[0], run)
        states = states.view(self.frames, -1, tokens, channels).transpose(0, 1).reshape(rows, tokens, channels)
        return states - hidden + run.weight * self._across_frames(states, attention.heads, run)

    def _control(self, tokens: int, hidden: Tensor, run: SharingRun) -> Tensor:
        """The condition's addition for every frame, [frames, 1, N, C]."""
        signal = run.signals.get(tokens)
        if signal is None or self.control_convs is None:
            raise InputError("The condition picture does not have the size of the generated picture.")

        def make() -> Tensor:
            source = signal.to(hidden)
            maps = [_in_dtype(convolutions, source) for convolutions in self.control_convs or ()]
            return torch.stack([item.flatten(2).transpose(1, 2) for item in maps])

        return run.once((id(self), "control", hidden.dtype, hidden.device), signal, make)

    def _project(self, name: str, x: Tensor, base: Callable[[Tensor], Tensor], run: SharingRun) -> Tensor:
        """The UNet's projection of [frames * G, N, C_in], frame by frame updated, -> [frames * G, N, C_out]."""
        updates = [update for update in getattr(self, f"to_{name}_lora") if isinstance(update, LowRank)]
        framed = x.reshape(self.frames, -1, x.shape[-1])
        weight: Tensor = getattr(base, "weight", x)
        if run.can_fold(base) and weight.dtype == x.dtype and weight.device == x.device:
            folded = run.once((id(self), name, "folded"), weight, lambda: _folded(weight, updates, run.weight))
            y = torch.bmm(framed, folded)
            bias: Tensor | None = getattr(base, "bias", None)
            y = y if bias is None else y + bias
            return y.view(*x.shape[:-1], -1)
        first = updates[0].down.weight
        down = run.once((id(self), name, "down", x.dtype), first, lambda: _stacked(updates, "down", x))
        up = run.once((id(self), name, "up", x.dtype), first, lambda: _stacked(updates, "up", x))
        update = torch.bmm(torch.bmm(framed, down), up).view(*x.shape[:-1], -1)
        return torch.add(base(x), update, alpha=run.weight)

    def _across_frames(self, states: Tensor, heads: int, run: SharingRun) -> Tensor:
        """Attention of every position over the frames of its own picture, [B, N, C] -> [B, N, C]."""
        rows, tokens, channels = states.shape
        norm = self.temporal_n
        x = functional.layer_norm(states, (channels,), norm.weight.to(states), norm.bias.to(states), norm.eps)
        x = _linear(self.temporal_i, x)
        x = x.view(-1, self.frames, tokens, channels).transpose(1, 2).reshape(-1, self.frames, channels)
        q, k, v = (_linear(layer, x) for layer in (self.temporal_q, self.temporal_k, self.temporal_v))
        x = _linear(self.temporal_o, v if self.frames == 1 else run.attention(q, k, v, heads))
        return x.view(-1, tokens, self.frames, channels).transpose(1, 2).reshape(rows, tokens, channels)


def _in_dtype(layers: nn.Module, x: Tensor) -> Tensor:
    """Run layers whose weights may be stored in another dtype, without changing the stored weights."""
    weights = {key: value.to(x) for key, value in layers.named_parameters()}
    return torch.func.functional_call(layers, weights, (x,))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight.to(x), layer.bias.to(x))


def _stacked(updates: Sequence[LowRank], part: str, like: Tensor) -> Tensor:
    """Matrices of all frames, transposed so that they multiply from the right, [frames, in, out]."""
    return torch.stack([getattr(update, part).weight.to(like).T for update in updates])


def _folded(weight: Tensor, updates: Sequence[LowRank], strength: float) -> Tensor:
    products = [update.up.weight.to(weight) @ update.down.weight.to(weight) for update in updates]
    return torch.stack([torch.add(weight, product, alpha=strength).T for product in products])


def _control_layers(signal_channels: int, channels: int) -> nn.Sequential:
    """From the condition's signal to what it adds to a frame's hidden states; nothing at first."""
    last = nn.Conv2d(signal_channels, channels, 1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Conv2d(signal_channels, signal_channels, 3, padding=1), nn.SiLU(), last)


class ConditionEncoder(nn.Module):
    """Turns the condition picture into a signal for each of the UNet's four sizes."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256), sizes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for level, width in enumerate(channels):
            layers += [nn.Conv2d(before, width, 3, stride=2 if level else 1, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            before = width
        self.sizes = sizes
        self.blocks_0 = nn.Sequential(*layers)
        for size in range(1, sizes):
            halving = nn.Conv2d(before, before, 3, stride=2, padding=1)
            setattr(
                self,
                f"blocks_{size}",
                nn.Sequential(halving, nn.SiLU(), nn.Conv2d(before, before, 3, padding=1), nn.SiLU()),
            )

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Pixels [1, 3, H, W] in [-1, 1] -> {tokens: signal [1, 256, h, w]} at 1/8, 1/16, 1/32 and 1/64 of the size."""
        signals: dict[int, Tensor] = {}
        x = pixels
        for size in range(self.sizes):
            x = getattr(self, f"blocks_{size}")(x)
            signals[x.shape[-2] * x.shape[-1]] = x
        return signals


class AttentionSharing(nn.Module):
    """All units of a UNet, in the UNet's own order, and the condition encoder where a picture is an input.

    widths: (channels, context channels or None) of each unit.
    """

    def __init__(
        self,
        widths: Sequence[tuple[int, int | None]],
        *,
        frames: int,
        rank: int = 256,
        condition_channels: Sequence[int] | None = None,
        condition_sizes: int = 4,
    ) -> None:
        super().__init__()
        self.frames = frames
        signal = condition_channels[-1] if condition_channels else None
        self.hookers = nn.Module()
        self.hookers.layers = nn.ModuleList(
            SharingUnit(width, context, frames=frames, rank=rank, signal_channels=signal) for width, context in widths
        )
        self.kwargs_encoder = ConditionEncoder(condition_channels, condition_sizes) if condition_channels else None

    @property
    def units(self) -> nn.ModuleList:
        """The units in the order of the UNet's attention layers."""
        layers = self.hookers.layers
        if not isinstance(layers, nn.ModuleList):
            raise TypeError("hookers.layers")
        return layers

    @property
    def condition_count(self) -> int:
        """How many condition pictures the file takes."""
        return 0 if self.kwargs_encoder is None else 1

    def signals(self, pixels: Tensor) -> dict[int, Tensor]:
        """Condition signals of a picture [1, 3, H, W] in [0, 1]."""
        if self.kwargs_encoder is None:
            return {}
        parameter = next(self.kwargs_encoder.parameters())
        return self.kwargs_encoder((2 * pixels - 1).to(parameter))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> AttentionSharing:
        """Build the module whose keys and shapes these are, with any number of units, and load them.

        Raises:
            WeightsError: they are no attention-sharing file's; the message names keys that differ.
        """
        unit = "hookers.layers.{}.to_{}_lora.0.down.weight"
        count = count_indices(state_dict, "hookers.layers.")
        frames = count_indices(state_dict, "hookers.layers.0.to_q_lora.")
        try:
            rank = state_dict[unit.format(0, "q")].shape[0]
            widths = []
            for index in range(count):
                channels = state_dict[unit.format(index, "q")].shape[1]
                source = state_dict[unit.format(index, "k")].shape[1]
                # Cross-attention units are every second one; a context as wide as the states has the same keys.
                widths.append((channels, source if index % 2 or source != channels else None))
            channels = None
            if any(key.startswith("kwargs_encoder.") for key in state_dict):
                channels = [state_dict[f"kwargs_encoder.blocks_0.{4 * level}.weight"].shape[0] for level in range(4)]
        except KeyError as missing:
            raise WeightsError(
                f"The file is no attention-sharing file: {missing} is missing; fetch it again."
            ) from None
        sizes = count_indices(state_dict, "kwargs_encoder.blocks_")

        def build() -> AttentionSharing:
            return cls(widths, frames=frames, rank=rank, condition_channels=channels, condition_sizes=sizes)

        return load_strictly(build, state_dict, "attention-sharing file")
