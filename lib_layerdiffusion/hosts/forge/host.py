"""The verbs of a host, for the model that one processing object samples with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.hosts.forge import family as families
from lib_layerdiffusion.hosts.forge import sharing as sharing_layers
from lib_layerdiffusion.hosts.forge import unet as patching
from lib_layerdiffusion.hosts.forge import vae
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.hosts.forge.quantised import refuse_unchangeable
from lib_layerdiffusion.methods import Family, LayerMethod
from lib_layerdiffusion.networks import AttentionSharing, SharingRun
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.networks.sharing_run import is_weight_product
from lib_layerdiffusion.unet.injection import KEY_PREFIX, Injection, LayerWeights, WeightOffsets

Prompts = Callable[[int], tuple[Any, Any]]


class ForgeHandle:
    """A patched UNet in the host's hands."""

    def __init__(self, objects: Any, plain: Any, patched: Any, steps: patching.LayerSteps) -> None:
        self._objects, self._plain, self._patched = objects, plain, patched
        self.check_merged = steps.check_merged

    def release(self) -> None:
        """Give the host back the UNet that it had; it restores the weights when it loads that."""
        if self._objects.unet is self._patched:
            self._objects.unet = self._plain


class ForgeHost:
    """`hosts.base.Host` on `p`, for as long as one run; condition latents and signals are computed once per size."""

    def __init__(self, p: Any, models: ForgeModels) -> None:
        self._p = p
        self._models = models
        self._backend = models.backend
        self._latents: dict[tuple[int, ...], Tensor] = {}
        self._sharing: dict[tuple[int, ...], SharingRun] = {}

    def family(self) -> Family:
        """See `hosts.base.Host`."""
        return families.family_of(self._p.sd_model)

    def fitting_weights(self, method: LayerMethod) -> LayerWeights:
        """The method's layer file, made sure to fit the loaded UNet.

        Raises:
            WeightsError: it is missing, damaged, of another method, or does not fit.
            HostError: the UNet is quantised so that the host cannot put it in.
        """
        weights = self._models.layer_weights(method)
        parameters = self._backend.parameters(self._p.sd_model.forge_objects_after_applying_lora.unet)
        if isinstance(weights, WeightOffsets):
            patching.check_offsets(parameters, weights)
            changes = partial(self._backend.changes_quantised, self._p.sd_model.forge_objects.unet)
            refuse_unchangeable(parameters, (KEY_PREFIX + key for key in weights), changes)
        else:
            patching.check_sharing(parameters, weights)
        return weights

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `hosts.base.Host`. Draws from the random generator that the host has seeded for the picture.

        Raises:
            HostError: the host encodes in tiles.
        """
        latent = vae.encode(self._p.sd_model.forge_objects.vae, pixels)
        return self._backend.latent_in(self._p.sd_model, latent)

    def inject(self, injection: Injection, prompts: Prompts | None = None) -> ForgeHandle:
        """See `hosts.base.Host`. prompts: conditioning of the layers' own prompts for a step, or None."""
        objects = self._p.sd_model.forge_objects
        plain = objects.unet
        patching.refuse_inpaint_patch(plain)
        patched = plain.clone()
        latents = None
        if isinstance(injection.weights, WeightOffsets):
            identity = self._models.identity(injection.method)
            patching.add_offsets(self._backend, patched, injection.weights, identity, injection.strength)
            latents = self._condition_latents(injection)
        else:
            self._share_attention(patched, injection, injection.weights)
        conditions = patching.LayerConditions(latents, prompts)
        steps = patching.LayerSteps(self._backend, self._p, plain, patched, injection, conditions)
        steps.attach()
        objects.unet = patched
        return ForgeHandle(objects, plain, patched, steps)

    def forget(self) -> None:
        """Let go of what was computed for the run; its tensors would live as long as the processing object."""
        for run in self._sharing.values():
            run.forget()
        self._sharing.clear()
        self._latents.clear()

    def _condition_latents(self, injection: Injection) -> Tensor | None:
        """[1, 4 n, h, w]; anew for each batch, whose seed decides how the VAE's distribution is sampled."""
        if not injection.conditions:
            return None
        key = (self._p.iteration, *injection.conditions[0].shape)
        if key not in self._latents:
            self._latents[key] = torch.cat([self.encode_pixels(pixels) for pixels in injection.conditions], dim=1)
        return self._latents[key]

    def _share_attention(self, patched: Any, injection: Injection, sharing: AttentionSharing) -> None:
        patcher = self._models.sharing_patcher(injection.method, sharing, patched)
        patched.add_extra_model_patcher_during_sampling(patcher)
        key = tuple(injection.conditions[0].shape) if injection.conditions else ()
        if key not in self._sharing:
            signals = self._models.signals(patcher, injection.conditions[0]) if injection.conditions else {}
            self._sharing[key] = SharingRun(signals=signals, weight=injection.strength, can_fold=is_weight_product)
        dtype = self._backend.computation_dtype(patched)
        self._sharing[key].across_frames = faster_precision(self._backend.torch_device(), dtype, exact=injection.exact)
        # The next batch's prompt may have merged other LoRAs, in place too: nothing tells from outside.
        self._sharing[key].forget()
        if not injection.is_plain:
            sharing_layers.keep_memory_free(patched, sharing, dtype.itemsize)
        sharing_layers.add_sharing(self._backend, patched, sharing, self._sharing[key])
