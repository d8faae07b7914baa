"""What a method changes in a UNet, said without a host: weight offsets, attention sharing, conditions.

A host adapter turns an `Injection` into its own way of patching and returns a handle that undoes it; nothing here
touches a model. Key grammar and numerics are those of the published weight files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.images.arithmetic import condition_image
from lib_layerdiffusion.images.opacity import PLAIN_BACKGROUND
from lib_layerdiffusion.methods import LayerMethod, Technique
from lib_layerdiffusion.networks import AttentionSharing
from lib_layerdiffusion.settings.parsing import LayerSettings

KEY_PREFIX = "diffusion_model."
CONV_IN = "input_blocks.0.0.weight"
LATENT_CHANNELS = 4
_TENSORS_PER_KIND = {"lora": 2, "diff": 1}


@dataclass(frozen=True)
class WeightPatch:
    """A change to one parameter.

    kind "lora": `tensors` are up [out, r] and down [r, in]; the change is their product. kind "diff": `tensors` is the
    change itself, which may be larger than the parameter: both are zero-padded to the larger shape.
    """

    kind: str
    tensors: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the change; for "lora" (out, in), which stands for any parameter with as many values."""
        if self.kind == "lora":
            up, down = self.tensors
            return (up.shape[0], down.shape[1])
        return tuple(self.tensors[0].shape)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape can take the change; only kernels (4-D) may be widened."""
        if self.kind == "lora":
            out, flat = self.shape
            return bool(shape) and shape[0] == out and torch.Size(shape[1:]).numel() == flat
        if len(shape) != len(self.shape):
            return False
        if len(shape) != 4:
            return self.shape == shape
        return self.shape[0] == shape[0] and self.shape[2:] == shape[2:] and self.shape[1] >= shape[1]

    def merge(self, weight: Tensor, strength: float) -> Tensor:
        """`weight` + `strength` * change, computed in float32 and returned in the weight's dtype; never in place.

        Strength 0 returns the weight itself, also where the change is wider: nothing is injected then.
        """
        if strength == 0:
            return weight
        parts = [part.to(weight.device, torch.float32) for part in self.tensors]
        change = (parts[0] @ parts[1]).reshape(weight.shape) if self.kind == "lora" else parts[0]
        merged = weight.float()
        if change.shape != merged.shape:
            target = torch.Size(max(a, b) for a, b in zip(change.shape, merged.shape, strict=True))
            merged, change = _zero_padded(merged, target), _zero_padded(change, target)
        return torch.add(merged, change, alpha=strength).to(weight.dtype)


def _zero_padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    padded = tensor.new_zeros(shape)
    padded[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded


class WeightOffsets(Mapping[str, WeightPatch]):
    """The changes of one SDXL-style layer file: ldm parameter name (without "diffusion_model.") -> change."""

    def __init__(self, patches: Mapping[str, WeightPatch]) -> None:
        self._patches = dict(patches)

    def __getitem__(self, key: str) -> WeightPatch:
        return self._patches[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> WeightOffsets:
        """Read keys of the form `diffusion_model.<parameter>::<lora|diff>::<index>`.

        Raises:
            WeightsError: a key is of another form, or one of a pair is missing; the message names it.
        """
        parts: dict[tuple[str, str], dict[int, Tensor]] = {}
        for key, tensor in state_dict.items():
            name, kind, index = _parse_key(key)
            parts.setdefault((name, kind), {})[index] = tensor
        patches: dict[str, WeightPatch] = {}
        for (name, kind), tensors in parts.items():
            if sorted(tensors) != list(range(_TENSORS_PER_KIND[kind])) or name in patches:
                raise WeightsError(f'The layer file is damaged: the tensors of "{name}" are incomplete or doubled.')
            patches[name] = WeightPatch(kind, tuple(tensors[index] for index in sorted(tensors)))
        if not patches:
            raise WeightsError("The layer file holds no weights.")
        return cls(patches)

    @property
    def condition_count(self) -> int:
        """How many condition latents the file's `conv_in` expects beside the noise latent."""
        patch = self._patches.get(CONV_IN)
        return 0 if patch is None or patch.kind == "lora" else (patch.shape[1] - LATENT_CHANNELS) // LATENT_CHANNELS

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make sure that every change lands on a parameter that can take it.

        shapes: ldm parameter name (without "diffusion_model.") -> shape of the loaded UNet.

        Raises:
            WeightsError: a parameter is missing or of another shape; the message names the first few.
        """
        wrong = [key for key, patch in self._patches.items() if key not in shapes or not patch.fits(shapes[key])]
        if wrong:
            raise WeightsError(
                f"The layer file does not fit the loaded model ({len(wrong)} of {len(self)} weights have no place, "
                f"such as {', '.join(wrong[:3])}): choose a checkpoint of the family that the method is made for."
            )


def _parse_key(key: str) -> tuple[str, str, int]:
    pieces = key.split("::")
    if len(pieces) == 3 and pieces[0].startswith(KEY_PREFIX) and pieces[1] in _TENSORS_PER_KIND and pieces[2].isdigit():
        return pieces[0].removeprefix(KEY_PREFIX), pieces[1], int(pieces[2])
    raise WeightsError(f'The layer file has a key of an unknown form ("{key}"): it belongs to another program.')


LayerWeights = WeightOffsets | AttentionSharing
"""A layer file in memory."""

_READERS: Mapping[Technique, Callable[[Mapping[str, Tensor]], LayerWeights]] = {
    Technique.WEIGHT_OFFSETS: WeightOffsets.from_state_dict,
    Technique.ATTENTION_SHARING: AttentionSharing.from_state_dict,
}


def read_layer_weights(method: LayerMethod, state_dict: Mapping[str, Tensor]) -> LayerWeights:
    """Read a method's UNet file and make sure that it is this method's kind.

    Raises:
        WeightsError: the file has another method's keys, shapes, number of frames or of conditions.
    """
    weights = _READERS[method.technique](state_dict)
    conditions = weights.condition_count
    frames = 1 if isinstance(weights, WeightOffsets) else weights.frames
    if conditions != len(method.inputs) or frames != method.frame_count:
        made = f"{_count(frames, 'frame')} and {_count(conditions, 'condition picture')}"
        raise WeightsError(
            f'"{method.weights}" is not the file of "{method.label}": it is made for {made} instead of '
            f"{method.frame_count} and {len(method.inputs)}; fetch it again."
        )
    return weights


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Injection:
    """Everything that a host has to put into a UNet for one run.

    weights: the layer file. strength: scales it, 0 leaves the UNet plain. stop_at: share of the schedule, 0 to 1, after
    which the untouched UNet finishes the picture. conditions: the method's input pictures in its order, each
    [1, 3, H, W] in [0, 1] at the pixel size of the latent. frame_prompts: each frame's additional prompt, "" for none.
    exact: nothing is computed less precisely for speed.
    """

    method: LayerMethod
    weights: LayerWeights
    strength: float = 1.0
    stop_at: float = 1.0
    conditions: tuple[Tensor, ...] = ()
    frame_prompts: tuple[str, ...] = ()
    exact: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the UNet stays as it is from the first step to the last."""
        return self.strength == 0 or self.stop_at <= 0


def plan_injection(settings: LayerSettings, weights: LayerWeights, height: int, width: int) -> Injection:
    """What `settings` asks of the UNet for pictures of `height` x `width` pixels (8 times the latent's size).

    Raises:
        InputError: a condition picture is missing or unusable.
    """
    pictures = settings.condition_pictures()
    conditions = tuple(
        torch.from_numpy(condition_image(picture, settings.resize_mode, height, width)).permute(2, 0, 1)[None]
        for picture in pictures
    )
    return Injection(
        method=settings.method,
        weights=weights,
        strength=settings.weight,
        stop_at=settings.stop_at,
        conditions=conditions,
        frame_prompts=tuple(settings.prompts.get(layer, "") for layer in settings.method.frames),
        exact=settings.latent_scale.reproduces,
    )


def additional_prompts(settings: LayerSettings) -> list[str]:
    """What goes before the main prompt in each frame, "" for nothing: the layer's own words, then the prompt aid's."""
    method = settings.method
    aid = PLAIN_BACKGROUND if settings.prompt_aid else ""
    return [
        ", ".join(filter(None, (settings.prompts.get(layer, ""), aid if method.is_rgba(index) else "")))
        for index, layer in enumerate(method.frames)
    ]


def layer_prompt(additional: str, main: str) -> str:
    """The prompt of a frame: the additional one before the main one (as the reference extension has it)."""
    return f"{additional}, {main}" if additional.strip() else main
