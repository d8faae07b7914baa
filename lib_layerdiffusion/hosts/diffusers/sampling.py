"""Sampling latents with a diffusers pipeline: from noise, from a picture, or inside a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lib_layerdiffusion.engine.host import PromptEmbedding

Progress = Callable[[int, int], None]

_HARDLY_GUIDED = 1.0 + 1e-7
"""Guidance that changes nothing, though pipelines keep the rows of the negative prompt."""


@dataclass(frozen=True)
class SamplingRequest:
    """One run of the sampler.

    seeds: one per batch item; noise is drawn on the CPU, so that results do not depend on the device.
    guidance: classifier-free. guidance_start: the share of the schedule, 0 to 1, that comes before it: what a picture
    shows where is decided there, and guidance makes seeds alike (Kynkäänniemi et al. 2024, a limited interval).
    start: latents [B, 4, H/8, W/8] in the UNet's scale to start from, with `strength` of the schedule run on them.
    mask: [1, 1, H/8, W/8], 1 where latents are made anew and 0 where `start` stays. progress: (steps done, of all).
    options: further arguments of the pipeline's call (ControlNet pictures, IP-Adapter pictures and so on).
    """

    prompt: PromptEmbedding
    negative: PromptEmbedding
    seeds: Sequence[int]
    width: int
    height: int
    steps: int
    guidance: float
    guidance_start: float = 0.0
    start: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    progress: Progress | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@torch.no_grad()
def sample(pipeline: Any, request: SamplingRequest) -> Tensor:
    """Sample latents [B, 4, H/8, W/8] in the UNet's scale."""
    batch = len(request.seeds)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
    arguments: dict[str, Any] = {
        **_prompt_arguments(request, batch),
        **request.options,
        "num_inference_steps": request.steps,
        "guidance_scale": _guidance(request, 0.0 if request.start is None else 1.0 - request.strength),
        "generator": generators,
        "output_type": "latent",
    }
    if request.start is None:
        shape = (1, pipeline.unet.config.out_channels, request.height // 8, request.width // 8)
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        arguments |= {"height": request.height, "width": request.width, "latents": noise.to(pipeline.unet.dtype)}
        runner = pipeline
    else:
        runner = _image_to_image(pipeline)
        arguments |= {"image": request.start.to(pipeline.unet.dtype), "strength": request.strength}
    runner.set_progress_bar_config(disable=True)
    return runner(**arguments, callback_on_step_end=_AfterStep(request)).images


def _image_to_image(pipeline: Any) -> Any:
    """The pipeline of the same models that starts from a picture."""
    from diffusers import (
        AutoPipelineForImage2Image,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLPipeline,
    )

    plain = {
        StableDiffusionPipeline: StableDiffusionImg2ImgPipeline,
        StableDiffusionXLPipeline: StableDiffusionXLImg2ImgPipeline,
    }
    kind = plain.get(type(pipeline))
    # Others (ControlNet and so on) have their counterpart named by diffusers.
    return AutoPipelineForImage2Image.from_pipe(pipeline) if kind is None else kind.from_pipe(pipeline)


def _prompt_arguments(request: SamplingRequest, batch: int) -> dict[str, Tensor]:
    arguments = {"prompt_embeds": request.prompt.context, "pooled_prompt_embeds": request.prompt.pooled}
    if request.guidance > 1:
        arguments |= {
            "negative_prompt_embeds": request.negative.context,
            "negative_pooled_prompt_embeds": request.negative.pooled,
        }
    return {
        name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in arguments.items() if value is not None
    }


def _guidance(request: SamplingRequest, share: float) -> float:
    """The guidance where that share of the schedule, 0 to 1, lies behind."""
    return request.guidance if share >= request.guidance_start else min(request.guidance, _HARDLY_GUIDED)


def _next(pipeline: Any, index: int) -> int:
    """The number in the whole schedule of the step after the one that is `index` of this run."""
    return len(pipeline.scheduler.timesteps) - pipeline.num_timesteps + index + 1


class _AfterStep:
    """Reports progress, guides the next step, and keeps what lies outside the mask at that step's noise level."""

    def __init__(self, request: SamplingRequest) -> None:
        self._request = request
        self._noise: Tensor | None = None

    def __call__(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del timestep
        request = self._request
        if request.progress is not None:
            request.progress(index + 1, pipeline.num_timesteps)
        if request.guidance_start > 0:
            # Where diffusers keeps it between steps, for callbacks to change.
            pipeline._guidance_scale = _guidance(request, _next(pipeline, index) / len(pipeline.scheduler.timesteps))
        if request.mask is None or request.start is None:
            return tensors
        latents = tensors["latents"]
        kept = self._kept(pipeline, index, latents)
        mask = request.mask.to(latents)
        return {**tensors, "latents": kept * (1 - mask) + latents * mask}

    def _kept(self, pipeline: Any, index: int, latents: Tensor) -> Tensor:
        start = self._request.start
        if start is None:
            return latents
        start = start.to(latents)
        timesteps = pipeline.scheduler.timesteps
        after = _next(pipeline, index)
        if after >= len(timesteps):
            return start
        if self._noise is None:
            # The very noise that the pipeline has put on `start`: the same generators, drawn anew.
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in self._request.seeds]
            self._noise = randn_tensor(start.shape, generator=generators, device=start.device, dtype=start.dtype)
        return pipeline.scheduler.add_noise(start, self._noise, timesteps[after : after + 1])
