"""Attention sharing: units around a UNet's attention layers through which the frames of one picture see each other.

A frame is a layer of the picture (foreground, background, blended); rows of the batch are frames of consecutive
pictures. Module names are those of the published SD1.5 files. The units never own or change the UNet's layers: they are
handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.networks.loading import count_indices, load_strictly, shape_of
from lib_layerdiffusion.networks.sharing_run import AttentionLayer, SharingRun, attend_over_frames, is_plain_linear
from lib_layerdiffusion.networks.transparent_encoder import convolution_stack

__all__ = ["AttentionSharing", "ConditionEncoder", "SharingRun", "SharingUnit", "is_plain_linear"]

PROJECTIONS = ("q", "k", "v", "out")
_PROBED = 8
"""Rows of its input that a layer is tried with."""

_NAME = "attention-sharing file"


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
            return attention.to_out[0](self._attend(q, k, v, attention.heads, run, framed=False))
        rows, tokens, channels = hidden.shape
        if rows % self.frames:
            raise InputError(f"The batch size must be a multiple of {self.frames} for this method; {rows} is not.")
        # Frame by frame from here on, [frames, pictures, ...], so that one batched product serves all frames.
        states = hidden.view(-1, self.frames, tokens, channels).transpose(0, 1).reshape(rows, tokens, channels)
        control = None if self.control_convs is None else self._control(tokens, hidden, run)
        if control is not None:
            framed = states.view(self.frames, -1, tokens, channels)
            states = torch.add(framed, control, alpha=run.weight).view_as(states)
        q = self._project("q", states, attention.to_q, run)
        if context is None:
            k, v = self._project("k", states, attention.to_k, run), self._project("v", states, attention.to_v, run)
        else:
            text = run.contexts(context, self.frames)
            k, v = self._of_text("k", text, attention.to_k, run), self._of_text("v", text, attention.to_v, run)
        attended = self._attend(q, k, v, attention.heads, run, framed=True)
        change = self._project("out", attended, attention.to_out[0], run)
        temporal = self._across_frames(states + change, attention.heads, run)
        change = torch.add(change, temporal, alpha=run.weight).view(self.frames, -1, tokens, channels)
        if control is not None:
            change = torch.add(change, control, alpha=run.weight)
        return change.transpose(0, 1).reshape(rows, tokens, channels)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, run: SharingRun, *, framed: bool) -> Tensor:
        """The host's attention, or what another extension put in its place. framed: rows go frame by frame."""
        if run.replacement is None:
            return run.attention(q, k, v, heads)
        if not framed:
            return run.replacement(q, k, v)
        by_picture = (x.unflatten(0, (self.frames, -1)).transpose(0, 1).flatten(0, 1) for x in (q, k, v))
        return run.replacement(*by_picture).unflatten(0, (-1, self.frames)).transpose(0, 1).flatten(0, 1)

    def _control(self, tokens: int, hidden: Tensor, run: SharingRun) -> Tensor:
        """The condition's addition for every frame, [frames, 1, N, C]."""
        signal = run.signal(tokens)
        if signal is None or self.control_convs is None:
            raise InputError("The condition picture does not have the size of the generated picture.")

        def make() -> Tensor:
            source = signal.to(hidden)
            maps = [_in_dtype(convolutions, source) for convolutions in self.control_convs or ()]
            return torch.stack([item.flatten(2).transpose(1, 2) for item in maps])

        return run.once((id(self), "control", tokens, hidden.dtype, hidden.device), signal, make)

    def _project(self, name: str, x: Tensor, base: Callable[[Tensor], Tensor], run: SharingRun) -> Tensor:
        """The UNet's projection of [frames * G, N, C_in], frame by frame updated, -> [frames * G, N, C_out]."""
        updates = [update for update in getattr(self, f"to_{name}_lora") if isinstance(update, LowRank)]
        framed = x.reshape(self.frames, -1, x.shape[-1])
        if self._folds(name, framed, base, run):
            weight: Tensor = base.weight  # pyright: ignore[reportFunctionMemberAccess]
            key = (id(self), name, "folded", run.weight)
            folded = run.once(key, weight, lambda: _folded(weight, updates, run.weight))
            bias: Tensor | None = getattr(base, "bias", None)
            y = torch.bmm(framed, folded) if bias is None else torch.baddbmm(bias, framed, folded)
            return y.view(*x.shape[:-1], -1)
        key = (id(self), name, "factors", x.dtype, x.device)
        down, up = run.once(key, updates[0].down.weight, lambda: _stacked(updates, x))
        plain = base(x)
        return torch.baddbmm(plain.view(self.frames, -1, plain.shape[-1]), framed @ down, up, alpha=run.weight).view_as(
            plain
        )

    def _of_text(self, name: str, text: Tensor, base: Callable[[Tensor], Tensor], run: SharingRun) -> Tensor:
        """`_project` of a context [B, M, D], rows picture by picture; once, while text and weight stay the same."""

        def make() -> Tensor:
            source = text.unflatten(0, (-1, self.frames)).transpose(0, 1).flatten(0, 1)
            return self._project(name, source, base, run)

        weight, framed = getattr(base, "weight", None), text.view(self.frames, -1, text.shape[-1])
        if not isinstance(weight, Tensor) or not self._folds(name, framed, base, run):
            return make()
        kept = run.unchanged(text)
        return make() if kept is None else run.once((id(self), name, "text", run.weight), (kept, weight), make)

    def _folds(self, name: str, framed: Tensor, base: Callable[[Tensor], Tensor], run: SharingRun) -> bool:
        """Whether the updates may be folded into the layer's weight, which is then as fast as the plain layer."""
        weight = getattr(base, "weight", None)
        if not isinstance(weight, Tensor) or (weight.dtype, weight.device) != (framed.dtype, framed.device):
            return False
        key = (id(self), name, "folds", id(base))
        return run.once(key, weight, lambda: run.can_fold(base, framed[0, :_PROBED]))

    def folded_bytes(self, element_size: int) -> int:
        """Memory of all updates folded into weights of `element_size` bytes a value."""
        updates = (update for name in PROJECTIONS for update in getattr(self, f"to_{name}_lora"))
        return sum(update.down.in_features * update.up.out_features for update in updates) * element_size

    def _across_frames(self, states: Tensor, heads: int, run: SharingRun) -> Tensor:
        """Attention of every position over the frames of its own picture, [frames * G, N, C] -> [frames * G, N, C]."""
        norm = self.temporal_n
        x = functional.layer_norm(states, norm.normalized_shape, norm.weight.to(states), norm.bias.to(states), norm.eps)
        x = x.to(run.across_frames or x.dtype)
        if self.frames == 1:
            # A frame alone attends to itself wholly: what remains is three linear layers in a row, hence one.
            key = (id(self), "alone", x.dtype, x.device)
            weight, bias = run.once(key, self.temporal_v.weight, lambda: self._alone(x))
            return functional.linear(x, weight, bias)
        key = (id(self), "temporal", heads, x.dtype, x.device)
        weight, bias = run.once(key, self.temporal_q.weight, lambda: self._inwards(x, heads))
        q, k, v = functional.linear(x, weight, bias).view(self.frames, -1, heads, 3, x.shape[-1] // heads).unbind(3)
        return self._temporal("o", attend_over_frames(q, k, v).reshape(x.shape), run)

    def _temporal(self, name: str, x: Tensor, run: SharingRun) -> Tensor:
        layer: nn.Linear = getattr(self, f"temporal_{name}")
        key = (id(self), "temporal", name, x.dtype, x.device)
        weight, bias = run.once(key, layer.weight, lambda: (layer.weight.to(x), layer.bias.to(x)))
        return functional.linear(x, weight, bias)

    def _inwards(self, like: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of q (scaled), k and v, head by head; between `temporal_i` and them all is linear."""
        i, bias_i = _exact(self.temporal_i, like)
        pairs = [_exact(layer, like) for layer in (self.temporal_q, self.temporal_k, self.temporal_v)]
        weight = torch.stack([weight @ i for weight, _ in pairs])
        bias = torch.stack([weight @ bias_i + bias for weight, bias in pairs])
        for part in (weight, bias):
            part[0] *= (bias.shape[1] / heads) ** -0.5
        # Then attention reads the product as it stands, without a copy.
        weight, bias = (
            part.unflatten(1, (heads, -1)).transpose(0, 1).flatten(0, 2).to(like) for part in (weight, bias)
        )
        return weight, bias

    def _alone(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of `temporal_o(temporal_v(temporal_i(x)))`, in the dtype and on the device of `like`."""
        layers = (self.temporal_i, self.temporal_v, self.temporal_o)
        (i, bias_i), (v, bias_v), (o, bias_o) = (_exact(layer, like) for layer in layers)
        return (o @ v @ i).to(like), (o @ (v @ bias_i + bias_v) + bias_o).to(like)


def _exact(layer: nn.Linear, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias in float32 on the device of `like`."""
    return layer.weight.to(like.device, torch.float32), layer.bias.to(like.device, torch.float32)


def _in_dtype(layers: nn.Module, x: Tensor) -> Tensor:
    """Run layers whose weights may be stored in another dtype, without changing the stored weights."""
    weights = {key: value.to(x) for key, value in layers.named_parameters()}
    return torch.func.functional_call(layers, weights, (x,))


def _stacked(updates: Sequence[LowRank], like: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of all frames, transposed so that they multiply from the right: [frames, in, r], [frames, r, out]."""
    down = torch.stack([update.down.weight.to(like) for update in updates])
    up = torch.stack([update.up.weight.to(like) for update in updates])
    return down.transpose(1, 2), up.transpose(1, 2)


def _folded(weight: Tensor, updates: Sequence[LowRank], strength: float) -> Tensor:
    """`weight` plus each frame's update, transposed, [frames, in, out]; `weight` itself stays as it is."""
    pairs = [(update.up.weight.to(weight), update.down.weight.to(weight)) for update in updates]
    return torch.stack([torch.addmm(weight, up, down, alpha=strength) for up, down in pairs]).transpose(1, 2)


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
        before = channels[-1]
        self.sizes = sizes
        self.blocks_0 = nn.Sequential(*convolution_stack(3, channels))
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
        count = count_indices(state_dict, "hookers.layers.")
        frames = count_indices(state_dict, "hookers.layers.0.to_q_lora.")
        widths: list[tuple[int, int | None]] = []
        rank = 0
        for index in range(max(count, 1)):
            unit = f"hookers.layers.{index}.to_{{}}_lora.0.down.weight"
            rank, channels = shape_of(state_dict, unit.format("q"), 2, _NAME)
            source = shape_of(state_dict, unit.format("k"), 2, _NAME)[1]
            # Cross-attention units are every second one; a context as wide as the states has the same keys.
            widths.append((channels, source if index % 2 or source != channels else None))
        sizes = count_indices(state_dict, "kwargs_encoder.blocks_")
        signal_widths = None
        if sizes:
            pairs = count_indices(state_dict, "kwargs_encoder.blocks_0.") // 2
            keys = [f"kwargs_encoder.blocks_0.{4 * pair}.weight" for pair in range(max(pairs, 1))]
            signal_widths = [shape_of(state_dict, key, 4, _NAME)[0] for key in keys]

        def build() -> AttentionSharing:
            return cls(widths, frames=frames, rank=rank, condition_channels=signal_widths, condition_sizes=sizes)

        return load_strictly(build, state_dict, _NAME)
