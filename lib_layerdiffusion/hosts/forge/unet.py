"""Putting a method into Forge's UNet: weight offsets, attention sharing, condition latents, layer prompts, Stop At.

Only a clone of the UNet's patcher is changed, so the host undoes everything when it loads another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from backend import memory_management
from backend.attention import attention_function
from backend.sampling.condition import Condition, compile_weighted_conditions
from torch import Tensor

from lib_layerdiffusion.errors import HostError, WeightsError
from lib_layerdiffusion.networks import AttentionSharing
from lib_layerdiffusion.networks.attention_sharing import SharingRun
from lib_layerdiffusion.unet.injection import KEY_PREFIX, WeightOffsets

_ATTENTION = re.compile(r"(input_blocks|output_blocks|middle_block)\.(?:.+\.)?transformer_blocks\.\d+\.attn[12]")
_PARTS = ("input_blocks", "output_blocks", "middle_block")
_LORA_SLOTS = 5
"""Host's layout of a low-rank patch: up, down, alpha, middle, magnitude."""


@dataclass(frozen=True)
class LayerConditions:
    """What changes the conditional half at every step.

    latents: condition latents [1, 4 n, h, w] in the sampler's scale, or None. prompts: gives the host's (composition,
    conditioning) of the layers' own prompts for a step, or None.
    """

    latents: Tensor | None = None
    prompts: Callable[[int], tuple[Any, Any]] | None = None


def attention_layers(unet: torch.nn.Module) -> list[tuple[str, Any]]:
    """(name, module) of every attention layer in the order of attention-sharing files: middle block last."""
    found = [(name, module) for name, module in unet.named_modules() if _ATTENTION.fullmatch(name)]
    return sorted(found, key=lambda item: _PARTS.index(item[0].split(".", 1)[0]))


def parameter_shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by ldm parameter name in the unpatched UNet, also where a widened layer is still merged in."""
    model = patcher.model
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    shapes.update({name: tuple(value.shape) for name, value in model.lora_loader.backup.items()})
    return {name.removeprefix(KEY_PREFIX): shape for name, shape in shapes.items() if name.startswith(KEY_PREFIX)}


def check_offsets(patcher: Any, offsets: WeightOffsets) -> None:
    """Make sure that every offset has its place; packed weights of quantised models are taken as they come.

    Raises:
        WeightsError: one has not.
    """
    shapes = parameter_shapes(patcher)
    packed = {name for name, value in patcher.model.named_parameters() if _is_packed(value)}
    for key, patch in offsets.items():
        if KEY_PREFIX + key in packed:
            shapes[key] = patch.shape
    offsets.check(shapes)


def _is_packed(parameter: Any) -> bool:
    return hasattr(parameter, "bnb_quantized") or getattr(parameter, "gguf_cls", None) is not None


def check_sharing(patcher: Any, sharing: AttentionSharing) -> None:
    """Make sure that units and attention layers belong together.

    Raises:
        WeightsError: they do not.
    """
    layers = attention_layers(patcher.model.diffusion_model)
    widths = [layer.to_q.in_features for _, layer in layers]
    units = [unit.temporal_i.in_features for unit in sharing.units]
    if widths != units:
        raise WeightsError(
            f"The layer file does not fit the loaded model ({len(units)} attention layers in the file, {len(widths)} "
            "in the model, or of other widths): choose a checkpoint of the family that the method is made for."
        )


def add_offsets(patcher: Any, offsets: WeightOffsets, identity: str, strength: float) -> None:
    """Let the host merge offsets into the weights when it loads this patcher.

    identity: says which content this is: the host merges anew only when it or the strength changes.
    """
    patches = {KEY_PREFIX + key: (patch.kind, _slots(patch.tensors)) for key, patch in offsets.items()}
    placed = patcher.add_patches(filename=identity, patches=patches, strength_patch=float(strength))
    if len(placed) != len(patches):
        missing = ", ".join(sorted(set(patches) - set(placed))[:3])
        raise WeightsError(f"The host found no place for {len(patches) - len(placed)} weights, such as {missing}.")


def _slots(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    return [*tensors, *[None] * (_LORA_SLOTS - len(tensors))]


def add_sharing(patcher: Any, sharing: AttentionSharing, run: SharingRun) -> None:
    """Lead every attention layer through its unit.

    Only `forward` of a layer is replaced and the layer stays where it is, so that LoRAs find its weights by name.
    """
    run.attention = attention_function
    for (name, layer), unit in zip(attention_layers(patcher.model.diffusion_model), sharing.units, strict=True):
        patcher.add_object_patch(f"{KEY_PREFIX}{name}.forward", _forward(unit, layer, run))


def _forward(unit: Any, layer: Any, run: SharingRun) -> Callable[..., Tensor]:
    def forward(x: Tensor, context: Tensor | None = None, **_: Any) -> Tensor:
        return unit(x, layer, context, run)

    return forward


def can_fold(_layer: object) -> bool:
    """Updates are never multiplied out here: layers may be offloaded, cast on the fly or quantised at any time."""
    return False


def refuse_conflicts(model_options: Mapping[str, Any]) -> None:
    """Refuse what takes attention layers apart, since a unit stands in for a whole layer.

    Raises:
        HostError: token merging or another extension's attention patch is active.
    """
    options = model_options.get("transformer_options", {})
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    if patches.get("attn1_patch") or patches.get("attn2_patch"):
        raise HostError(
            "Token merging and other patches of attention inputs cannot be used together with SD1.5 layer methods: set "
            "Token merging ratio to 0, or switch the other extension off."
        )
    if replaced.get("attn1") or replaced.get("attn2"):
        raise HostError(
            "Self-attention guidance, IP-Adapter and other replacements of attention cannot be used together with "
            "SD1.5 layer methods: switch the other extension off, or use an SDXL method."
        )


def add_modifier(
    patcher: Any, p: Any, plain: Any, stop_at: float, conditions: LayerConditions, *, whole_attention: bool
) -> None:
    """Change the conditioning at every step, and let `plain` finish the picture below `stop_at` of the schedule.

    A plain function, because the host deep-copies options when a patcher is cloned. whole_attention: refuse what takes
    attention apart.
    """
    stop_sigma = float(patcher.model.predictor.percent_to_sigma(stop_at))
    state = {"stopped": False}

    def modify(
        model: Any, x: Any, timestep: Any, uncond: Any, cond: Any, scale: Any, options: Any, seed: Any
    ) -> tuple[Any, ...]:
        stopped = float(timestep[0]) < stop_sigma
        if stopped is not state["stopped"]:
            _load(plain if stopped else p.sd_model.forge_objects.unet, x)
            state["stopped"] = stopped
        if not stopped:
            if whole_attention:
                refuse_conflicts(options)
            _change_conditions(cond, uncond, x, conditions, p)
        return model, x, timestep, uncond, cond, scale, options, seed

    patcher.add_conditioning_modifier(modify)


def _load(patcher: Any, x: Tensor) -> None:
    rows, *rest = x.shape
    memory_management.load_models_gpu(
        [patcher, *patcher.extra_model_patchers_during_sampling],
        memory_required=patcher.memory_required([rows * 2, *rest]),
        hard_memory_preservation=patcher.extra_preserved_memory_during_sampling,
    )


def _change_conditions(cond: Any, uncond: Any, x: Tensor, conditions: LayerConditions, p: Any) -> None:
    if conditions.prompts is not None:
        composition, text = conditions.prompts(p.sampler.model_wrap_cfg.step)
        for group, own in zip(cond, compile_weighted_conditions(text, composition), strict=True):
            group["model_conds"].update(own["model_conds"])
            group["cross_attn"] = own["cross_attn"]
    if conditions.latents is None:
        return
    if conditions.latents.shape[2:] != x.shape[2:]:
        raise HostError(
            "The condition picture has another size than the picture that is sampled: switch tiled sampling off, or "
            "use a method without condition pictures."
        )
    latents = conditions.latents.to(x).expand(x.shape[0], -1, -1, -1)
    for group in [*cond, *(uncond or [])]:
        if "c_concat" in group["model_conds"]:
            raise HostError(
                "The loaded checkpoint or another extension already adds channels to the UNet's input, which leaves no "
                "place for the condition pictures: use an ordinary checkpoint and switch that extension off."
            )
        group["model_conds"]["c_concat"] = Condition(latents)
