"""Injection into a `UNet2DConditionModel`: weights exchanged, attention processors set, conditions concatenated.

Nothing of diffusers is subclassed. A forward pre-hook on the UNet decides at every call, by its timestep, whether the
injection is in or out, so that "Stop At" leaves the untouched UNet behind, with its narrow `conv_in`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lib_layerdiffusion.engine.host import PromptEmbedding
from lib_layerdiffusion.errors import HostError, ModelError
from lib_layerdiffusion.hosts.diffusers.attention import ProcessorExchange, attention_patch, checksums
from lib_layerdiffusion.unet.injection import Injection, WeightOffsets
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm


class Patch(Protocol):
    """A change that can be put in and taken out any number of times; either is harmless when done already."""

    def enable(self) -> None:
        """Put the change in."""
        ...

    def disable(self) -> None:
        """Take the change out; the UNet is bit-identical to what it was."""
        ...

    def is_current(self) -> bool:
        """Whether it may be put in again: the UNet is as it was when the change was prepared."""
        ...


@dataclass(frozen=True)
class ParameterPlace:
    """A parameter by module and name: offloading layer by layer puts ever new parameter objects into the same place."""

    module: nn.Module
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """What is there now."""
        return getattr(self.module, self.name)


class WeightExchange:
    """Merged weights beside the UNet's own. Exchanging moves tensors in and out of the parameters, no arithmetic.

    places: name -> where the UNet has it. merged: name -> its weight with the layer file added.
    """

    def __init__(self, places: Mapping[str, ParameterPlace], merged: Mapping[str, Tensor]) -> None:
        self._places = dict(places)
        self._idle = dict(merged)
        self._enabled = False
        self._fingerprint = self._sums()

    def is_current(self) -> bool:
        """Whether the UNet's own weights are still those that were merged (a LoRA may have been fused since)."""
        return not self._enabled and self._sums() == self._fingerprint

    def _sums(self) -> list[int]:
        return checksums(place.parameter for place in self._places.values())

    def enable(self) -> None:
        """Put the merged weights in."""
        if not self._enabled:
            self._exchange()
            self._enabled = True

    def disable(self) -> None:
        """Put the UNet's own weights back."""
        if self._enabled:
            self._exchange()
            self._enabled = False

    def _exchange(self) -> None:
        done: list[str] = []
        try:
            for name in self._places:
                self._exchange_one(name)
                done.append(name)
        except BaseException:
            for name in done:
                self._exchange_one(name)
            raise

    def _exchange_one(self, name: str) -> None:
        parameter, idle = self._places[name].parameter, self._idle[name]
        busy = parameter.data
        parameter.data = idle.to(busy.device)
        # The set that waits stays where its successor came from, so that a full device is not filled twice.
        self._idle[name] = busy.to(idle.device)


def base_parameters(unet: nn.Module) -> dict[str, ParameterPlace]:
    """Places of parameters by their ldm names, below the adapters that PEFT wraps around layers.

    Raises:
        HostError: the weights are not in memory (sequential offload). ModelError: they are quantised.
    """
    found: dict[str, ParameterPlace] = {}
    for name, theirs in diffusers_to_ldm(unet.config).items():  # type: ignore[arg-type]
        path, leaf = name.rsplit(".", 1)
        module = unet.get_submodule(path)
        while hasattr(module, "base_layer"):
            module = module.base_layer
        if not isinstance(getattr(module, leaf, None), nn.Parameter):
            raise ModelError(f'This UNet has no plain weight "{name}": use one that is neither quantised nor compiled.')
        found[theirs] = ParameterPlace(module, leaf)
    parameters = [place.parameter for place in found.values()]
    if any(parameter.is_meta for parameter in parameters):
        raise HostError(
            "The UNet's weights are offloaded layer by layer: inject before offloading, or use another mode."
        )
    if not all(parameter.is_floating_point() and parameter.element_size() > 1 for parameter in parameters):
        raise ModelError(
            "The UNet's weights are quantised and cannot be changed: load it in float16, bfloat16 or float32."
        )
    return found


@torch.no_grad()
def merge_offsets(
    unet: nn.Module, weights: WeightOffsets, strength: float, device: torch.device | None = None
) -> WeightExchange:
    """Merge a layer file with the UNet's weights; nothing is changed until the exchange is enabled.

    device: where to compute, the weights' own if None. The result waits in main memory.

    Raises:
        WeightsError: a key of the file has no place in this UNet. HostError, ModelError: as in `base_parameters`.
    """
    places = base_parameters(unet)
    weights.check({name: tuple(place.parameter.shape) for name, place in places.items()})
    merged: dict[str, Tensor] = {}
    for name, patch in weights.items() if strength else ():
        own = places[name].parameter.data
        merged[name] = patch.merge(own.to(device or own.device), strength).to("cpu").contiguous()
    return WeightExchange({name: places[name] for name in merged}, merged)


class UNetHandle:
    """An injected UNet; a context manager. Releasing it twice is harmless."""

    def __init__(
        self,
        unet: nn.Module,
        patch: Patch,
        injection: Injection,
        *,
        condition_latents: Tensor | None = None,
        frame_prompts: PromptEmbedding | None = None,
        batch: int | None = None,
    ) -> None:
        self._unet, self._patch = unet, patch
        self._latents, self._prompts, self._batch = condition_latents, frame_prompts, batch
        self._last_timestep = float("inf") if injection.is_plain else last_timestep(injection.stop_at)
        self._frames = injection.method.frame_count
        self._hook: Any = unet.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def enable(self) -> None:
        """Put the change in at once instead of at the next call, for weights that are offloaded between them."""
        if self._last_timestep != float("inf"):
            self._patch.enable()

    def release(self) -> None:
        """Undo the injection."""
        self._hook.remove()
        self._patch.disable()

    def _before_forward(
        self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        del unet
        call = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        rest = args[3:]
        if self._last_timestep > 0 and float(torch.as_tensor(call["timestep"]).max()) < self._last_timestep:
            self._patch.disable()
            return None
        self._patch.enable()
        call["sample"] = self._with_conditions(call["sample"])
        call |= self._with_frame_prompts(call["encoder_hidden_states"], call.get("added_cond_kwargs"))
        if rest:  # positional arguments behind these three have to stay positional
            return (call.pop("sample"), call.pop("timestep"), call.pop("encoder_hidden_states"), *rest), call
        return (), call

    def _with_conditions(self, sample: Tensor) -> Tensor:
        if self._latents is None:
            return sample
        if sample.shape[-2:] != self._latents.shape[-2:]:
            raise HostError("The condition pictures were prepared for another picture size: inject again for this one.")
        latents = self._latents.to(sample.device, sample.dtype).expand(len(sample), -1, -1, -1)
        return torch.cat([sample, latents], dim=1)

    def _with_frame_prompts(self, context: Tensor, added: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """Each frame's own prompt in the conditional rows, which come last."""
        if self._prompts is None:
            return {"encoder_hidden_states": context}
        rows = self._batch or len(context)
        own = self._prompts.context.to(context.device, context.dtype)
        # Repeating all tokens alike leaves attention as it is, so prompts of different lengths can share a batch.
        length = math.lcm(own.shape[1], context.shape[1])
        own = own.repeat(rows // self._frames, length // own.shape[1], 1)
        kept = context[: len(context) - rows].repeat(1, length // context.shape[1], 1)
        changed: dict[str, Any] = {"encoder_hidden_states": torch.cat([kept, own])}
        if added and self._prompts.pooled is not None and "text_embeds" in added:
            pooled = added["text_embeds"]
            new = self._prompts.pooled.to(pooled.device, pooled.dtype).repeat(rows // self._frames, 1)
            changed["added_cond_kwargs"] = {**added, "text_embeds": torch.cat([pooled[: len(pooled) - rows], new])}
        return changed


def last_timestep(stop_at: float, train_steps: int = 1000) -> float:
    """The timestep below which the untouched UNet takes over, for a share `stop_at` of the schedule, 0 to 1.

    The samplers' schedule runs from `train_steps` - 1 down to 0; 1 means to the end, 0 means never injected.
    """
    if stop_at >= 1:
        return float("-inf")
    return float("inf") if stop_at <= 0 else (1 - stop_at) * (train_steps - 1)


def is_injected(unet: nn.Module) -> bool:
    """Whether a handle holds this UNet."""
    hooks = unet._forward_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), UNetHandle) for hook in hooks)


def inject_unet(
    unet: nn.Module,
    injection: Injection,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    frame_prompts: PromptEmbedding | None = None,
    batch: int | None = None,
    patch: Patch | None = None,
    device: torch.device | None = None,
) -> UNetHandle:
    """Put an injection into a UNet until the handle is released.

    encode: pixels [1, 3, H, W] in [0, 1] to latents in the UNet's scale; needed where a method concatenates conditions.
    frame_prompts: [frames, T, C] (and pooled [frames, P]), what each frame reads instead of the main prompt in the last
    `batch` rows of a call.
    batch: pictures per call, without the rows of guidance. patch: an exchange merged earlier for the same weights.

    Raises:
        LayerDiffusionError: it does not fit; the UNet is untouched then.
    """
    if is_injected(unet):
        raise HostError("This UNet already has a layer method in it: release that one first.")
    if batch is not None and batch % injection.method.frame_count:
        frames = injection.method.frame_count
        raise HostError(f'"{injection.method.label}" makes {frames} frames a picture: use a multiple of that as batch.')
    latents = None
    if patch is None:
        patch = prepare_patch(unet, injection, device)
    if isinstance(injection.weights, WeightOffsets) and injection.conditions and not injection.is_plain:
        if encode is None:
            raise HostError("Condition pictures need a VAE: inject through a host that has one.")
        latents = torch.cat([encode(picture) for picture in injection.conditions], dim=1)
    elif isinstance(patch, ProcessorExchange):
        patch.prepare(injection)
    return UNetHandle(unet, patch, injection, condition_latents=latents, frame_prompts=frame_prompts, batch=batch)


def prepare_patch(unet: nn.Module, injection: Injection, device: torch.device | None = None) -> Patch:
    """What `inject_unet` puts in; may be kept and handed to later injections of the same weights and strength.

    Raises:
        LayerDiffusionError: it does not fit; the UNet is untouched then.
    """
    if isinstance(injection.weights, WeightOffsets):
        return merge_offsets(unet, injection.weights, injection.strength, device)
    return attention_patch(unet, injection, device)
