"""The host with what an engine needs around injection: prompts, samplers, placement, offloading, defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.engine.host import Network, PromptEmbedding
from lib_layerdiffusion.engine.request import PictureRequest
from lib_layerdiffusion.engine.vocabulary import words_in
from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.diffusers.host import DiffusersHost
from lib_layerdiffusion.hosts.diffusers.prompts import encode_prompts
from lib_layerdiffusion.hosts.diffusers.samplers import describe_sampler, make_scheduler
from lib_layerdiffusion.hosts.diffusers.sampling import SamplingRequest, sample
from lib_layerdiffusion.hosts.diffusers.unet import Patch, prepare_patch
from lib_layerdiffusion.images.arithmetic import flatten_on_grey, to_float
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.networks import TransparentDecoder
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.transparency import LatentTransparency
from lib_layerdiffusion.unet.injection import Injection

OFFLOADS = ("none", "model", "sequential")


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model beside its weights.

    name: for infotext. source: in words, for people. families: see `DiffusersHost`. steps, guidance: its defaults.
    guidance_start: see `SamplingRequest`.
    decode_passes: with how many its transparency decoder does best; the published ones with eight. sizes: the only
    ones (width, height) that it makes; empty where it makes any.
    subjects: what a small model was trained on, empty for one that knows everything. words: that it knows beside them.
    """

    name: str = ""
    source: str = ""
    families: tuple[Family, ...] = ()
    steps: int = 25
    guidance: float = 7.0
    guidance_start: float = 0.0
    decode_passes: int = 8
    sizes: tuple[tuple[int, int], ...] = ()
    subjects: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class _KeptPatch:
    unet: object
    weights: object
    strength: float
    patch: Patch


class EngineHost(DiffusersHost):
    """A pipeline that an engine works with; offload as in `LayerDiffusion.from_checkpoint`.

    exact: our own networks compute in the pipeline's precision also where another is faster.
    """

    def __init__(
        self, pipeline: Any, card: ModelCard | None = None, offload: str = "none", *, exact: bool = False
    ) -> None:
        card = card or ModelCard()
        super().__init__(pipeline, card.families)
        self.name, self.source = card.name, card.source
        self.steps, self.guidance, self.decode_passes = card.steps, card.guidance, card.decode_passes
        self.guidance_start = card.guidance_start
        self.subjects = card.subjects
        self.words = words_in((*card.subjects, *card.words)) if card.subjects else frozenset[str]()
        self.sizes = card.sizes
        self._offload, self._exact = offload, exact
        self._scheduler = pipeline.scheduler
        self._kept: _KeptPatch | None = None

    @property
    def default_size(self) -> int:
        """The side that the model was trained on, in pixels."""
        return int(self.pipeline.unet.config.sample_size) * self.downscale

    @property
    def own_sampler(self) -> str:
        """Infotext name of the model's own sampler."""
        return describe_sampler("", self._scheduler).get("Sampler", "")

    @contextmanager
    def sampler(self, name: str) -> Iterator[Mapping[str, str]]:
        """A sampler for the time of a `with`, "" for the model's own; gives its infotext keys.

        Raises:
            SettingsError: there is none of that name.
        """
        scheduler = make_scheduler(name, self._scheduler.config) if name else self._scheduler
        self.pipeline.scheduler = scheduler
        try:
            yield describe_sampler(name, scheduler)
        finally:
            self.pipeline.scheduler = self._scheduler

    def encode_prompts(
        self, prompt: str, negative: str, frames: Sequence[str]
    ) -> tuple[PromptEmbedding, PromptEmbedding, PromptEmbedding | None]:
        """Embeddings of the prompt, the negative prompt, and of all frames' own prompts together."""
        first, second, *others = encode_prompts(self.pipeline, [prompt, negative, *frames])
        if not negative and second.pooled is not None and self.pipeline.config.get("force_zeros_for_empty_prompt"):
            # SDXL was trained with zeros where there is no text at all.
            second = PromptEmbedding(torch.zeros_like(second.context), torch.zeros_like(second.pooled))
        if not others:
            return first, second, None
        pooled = [item.pooled for item in others if item.pooled is not None]
        context = torch.cat([item.context for item in others])
        return first, second, PromptEmbedding(context, torch.cat(pooled) if pooled else None)

    def encode_start(self, picture: Picture, transparency: LatentTransparency | None) -> Tensor:
        """Latents [1, 4, H/8, W/8] in the UNet's scale of a picture flattened on grey, its alpha hidden if asked.

        transparency: has the encoder whose offset is added as `mean + std * offset` (arXiv 2402.17113, section 3.1).
        """
        pixels = torch.from_numpy(to_float(flatten_on_grey(picture))).permute(2, 0, 1)[None]
        mean, deviation = self.posterior(pixels)
        if transparency is not None:
            mean = mean + deviation * transparency.encode_offset(picture).to(mean)
        return mean * self.scaling

    def placed(self, network: Network, *, exact: bool = False) -> Network:
        """A transparency network where and in the precision in which the pipeline computes.

        exact: a decoder too, where another precision is faster.
        """
        dtype = self.pipeline.unet.dtype if self.device.type != "cpu" else torch.float32
        if isinstance(network, TransparentDecoder):
            precision = faster_precision(self.device, dtype, exact=exact or self._exact)
            return network.to(self.device).with_precision(precision)
        return network.to(self.device, dtype)

    @contextmanager
    def injected(self, injection: Injection, frames: PromptEmbedding | None, batch: int) -> Iterator[None]:
        """The injection for the time of a `with`; merged weights are kept for the next run with the same ones.

        Raises:
            LayerDiffusionError: it does not fit; the UNet is untouched then.
        """
        if self._offload == "sequential" and 0 < injection.stop_at < 1 and not injection.is_plain:
            raise HostError('"Stop At" cannot be combined with sequential offloading: use model offloading or 1.')
        injection = replace(injection, exact=injection.exact or self._exact)
        with self._weights_in_memory():
            self.check(injection.method.family, injection.method.label)
            handle = self.inject(injection, frame_prompts=frames, batch=batch, patch=self._patch(injection))
            if self._offload == "sequential":
                handle.enable()
        try:
            yield
        finally:
            with self._weights_in_memory():
                handle.release()

    def _patch(self, injection: Injection) -> Patch:
        unet, weights, strength = self.pipeline.unet, injection.weights, injection.strength
        kept = self._kept
        same = kept and kept.unet is unet and kept.weights is weights and kept.strength == strength
        if kept and same and kept.patch.is_current():
            return kept.patch
        self._kept = None  # before the next one is made: two sets of merged weights may not fit
        self._kept = _KeptPatch(unet, weights, strength, prepare_patch(unet, injection, self.device))
        return self._kept.patch

    @contextmanager
    def _weights_in_memory(self) -> Iterator[None]:
        """Sequential offloading leaves the UNet without its weights; they come back for the time of a change."""
        if self._offload != "sequential":
            yield
            return
        place = self.device
        self.pipeline.remove_all_hooks()
        try:
            yield
        finally:
            self.pipeline.enable_sequential_cpu_offload(device=place)

    def sample(
        self,
        request: PictureRequest,
        prompt: PromptEmbedding,
        negative: PromptEmbedding,
        start: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Sample the request's latents."""
        report = request.progress
        sampling = SamplingRequest(
            prompt=prompt,
            negative=negative,
            seeds=request.seeds,
            width=request.width,
            height=request.height,
            steps=request.steps,
            guidance=request.guidance,
            guidance_start=self.guidance_start,
            start=start,
            strength=request.strength,
            mask=mask,
            progress=None if report is None else lambda done, total: report("sample", done, total),
            options=request.options,
        )
        return sample(self.pipeline, sampling)
