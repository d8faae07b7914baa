"""Putting a method into a host's UNet: weight offsets, attention sharing, condition latents, layer prompts, Stop At.

Only a clone of the UNet's patcher is changed, so the host undoes everything when it loads another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lib_layerdiffusion.errors import HostError, WeightsError
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend
from lib_layerdiffusion.hosts.forge.quantised import INSTEAD, logical_shape, quantisations, refuse_unknown
from lib_layerdiffusion.hosts.forge.sharing import ATTENTION, ATTENTION_PARTS, in_file_order, refuse_conflicts
from lib_layerdiffusion.networks import AttentionSharing
from lib_layerdiffusion.unet.injection import KEY_PREFIX, Injection, WeightOffsets

INPAINT_PATCH = "fooocus"
"""Kind of patch by which hosts know it."""
_QUERY = ".to_q.weight"


@dataclass(frozen=True)
class LayerConditions:
    """What changes the conditional half at every step.

    latents: condition latents [1, 4 n, h, w] in the sampler's scale, or None. prompts: gives the host's (composition,
    conditioning) of the layers' own prompts for a step, or None.
    """

    latents: Tensor | None = None
    prompts: Callable[[int], tuple[Any, Any]] | None = None


def check_offsets(parameters: Mapping[str, Tensor], offsets: WeightOffsets) -> None:
    """Make sure that every offset has its place. parameters: of the whole model, by full name.

    Raises:
        WeightsError: one has not. HostError: the model is quantised in a way that has no such places.
    """
    refuse_unknown(parameters, (KEY_PREFIX + key.removesuffix(".weight") for key in offsets))
    named = {name.removeprefix(KEY_PREFIX): value for name, value in parameters.items() if name.startswith(KEY_PREFIX)}
    offsets.check({name: logical_shape(value) for name, value in named.items()})


def check_sharing(parameters: Mapping[str, Tensor], sharing: AttentionSharing) -> None:
    """Make sure that units and attention layers belong together. parameters: of the whole model, by full name.

    Raises:
        WeightsError: they do not. HostError: the model is quantised in a way that leaves no such layers.
    """
    refuse_unknown(parameters, (f"{KEY_PREFIX}{part}" for part in ATTENTION_PARTS))
    queries = (name.removeprefix(KEY_PREFIX).removesuffix(_QUERY) for name in parameters if name.endswith(_QUERY))
    layers = in_file_order(name for name in queries if ATTENTION.fullmatch(name))
    widths = [logical_shape(parameters[f"{KEY_PREFIX}{name}{_QUERY}"])[1] for name in layers]
    units = [unit.temporal_i.in_features for unit in sharing.units]
    if widths != units:
        raise WeightsError(
            f"The layer file does not fit the loaded model ({len(units)} attention layers in the file, {len(widths)} "
            "in the model, or of other widths): choose a checkpoint of the family that the method is made for."
        )


def add_offsets(backend: Backend, patcher: Any, offsets: WeightOffsets, identity: str, strength: float) -> None:
    """Let the host merge offsets into the weights when it loads this patcher.

    identity: says which content this is: the host merges anew only when it or the strength changes.
    """
    placed = backend.add_offsets(patcher, offsets, identity, float(strength))
    if len(placed) != len(offsets):
        missing = ", ".join(sorted(set(offsets) - {name.removeprefix(KEY_PREFIX) for name in placed})[:3])
        raise WeightsError(f"The host found no place for {len(offsets) - len(placed)} weights, such as {missing}.")


def refuse_inpaint_patch(patcher: Any) -> None:
    """Refuse Fooocus' inpaint patch: at every step it loads its own copy of the UNet in the place of the patched one.

    patcher: the host's UNet as other extensions left it, whose patches stand in a mapping, in some hosts one for each
    file; one patch is (strength, (kind, values), ...).

    Raises:
        HostError: it is there.
    """
    files = getattr(patcher, "lora_patches", None)
    patches = files.values() if files is not None else [getattr(patcher, "patches", None) or {}]
    every = (patch for found in patches for of_weight in found.values() for patch in of_weight)
    if any(isinstance(patch[1], tuple) and patch[1][0] == INPAINT_PATCH for patch in every):
        raise HostError(
            "Fooocus' inpaint patch exchanges the UNet at every step, which would take the method out of it: switch "
            "that ControlNet unit off; LayerDiffusion inpaints without it."
        )


class LayerSteps:
    """What happens at every step: conditions change, and below Stop At `plain` finishes the picture.

    plain, patched: the host's patchers of the UNet.
    """

    def __init__(
        self, backend: Backend, p: Any, plain: Any, patched: Any, injection: Injection, conditions: LayerConditions
    ) -> None:
        self._backend = backend
        self._p = p
        self._plain = plain
        self._patched = patched
        self._injection = injection
        self._conditions = conditions
        self._stop_sigma = backend.percent_to_sigma(patched, injection.stop_at)
        self._stopped = False
        self._calls = 0

    def attach(self) -> None:
        """Let the host call this at every step."""

        # A plain function, because the host deep-copies options when a patcher is cloned.
        def modify(model: Any, x: Any, timestep: Any, uncond: Any, cond: Any, *rest: Any) -> tuple[Any, ...]:
            self._step(x, timestep, uncond, cond, rest[1])
            return model, x, timestep, uncond, cond, *rest

        self._patched.add_conditioning_modifier(modify)

    def check_merged(self) -> None:
        """Make sure that the host has merged what it was given; once a step is done it must have.

        Raises:
            HostError: it has not, which it would not say itself.
        """
        weights = self._injection.weights
        if self._stopped or not self._calls or not isinstance(weights, WeightOffsets):
            return
        left_out = self._backend.unmerged(self._patched, weights)
        if left_out:
            kinds = quantisations(self._backend.parameters(self._patched).values())
            raise HostError(
                f"The host left {len(left_out)} of {len(weights)} changes out of the UNet, such as {left_out[0]}"
                f"{f' (the checkpoint is quantised: {kinds})' if kinds else ''}: {INSTEAD}."
            )

    def _step(self, x: Tensor, timestep: Tensor, uncond: Any, cond: Any, options: Mapping[str, Any]) -> None:
        if self._calls == 0:
            refuse_inpaint_patch(self._p.sd_model.forge_objects.unet)  # by an extension that comes behind this one
        if self._calls == 1:
            self.check_merged()
        stopped = float(timestep[0]) < self._stop_sigma
        if stopped is not self._stopped:
            self._load(self._plain if stopped else self._p.sd_model.forge_objects.unet, x)
            self._stopped = stopped
        if stopped:
            return
        self._calls += 1
        if isinstance(self._injection.weights, AttentionSharing):
            refuse_conflicts(options)
        self._change_conditions(cond, uncond, x)

    def _load(self, patcher: Any, x: Tensor) -> None:
        rows, *rest = x.shape
        self._backend.load(
            [patcher, *patcher.extra_model_patchers_during_sampling],
            memory=patcher.memory_required([rows * 2, *rest]),
            preserved=patcher.extra_preserved_memory_during_sampling,
        )

    def _change_conditions(self, cond: Any, uncond: Any, x: Tensor) -> None:
        if self._conditions.prompts is not None:
            composition, text = self._conditions.prompts(self._p.sampler.model_wrap_cfg.step)
            for group, own in zip(cond, self._backend.weighted_conditions(text, composition), strict=True):
                group["model_conds"].update(own["model_conds"])
                group["cross_attn"] = own["cross_attn"]
        if self._conditions.latents is None:
            return
        if self._conditions.latents.shape[2:] != x.shape[2:]:
            raise HostError(
                "The condition picture has another size than the picture that is sampled: switch tiled sampling "
                "off, or use a method without condition pictures."
            )
        latents = self._conditions.latents.to(x).expand(x.shape[0], -1, -1, -1)
        for group in [*cond, *(uncond or [])]:
            if "c_concat" in group["model_conds"]:
                raise HostError(
                    "The loaded checkpoint or another extension already adds channels to the UNet's input, which "
                    "leaves no place for the condition pictures: use an ordinary checkpoint and switch that extension "
                    "off."
                )
            group["model_conds"]["c_concat"] = self._backend.condition(latents)
