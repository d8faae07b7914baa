"""Additional prompts of layers, as the host's own conditioning: AND, prompt editing and long prompts keep working."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from modules import extra_networks, prompt_parser, sd_samplers

from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.settings.parsing import LayerSettings
from lib_layerdiffusion.unet.injection import additional_prompts, layer_prompt

_AND = re.compile(r"\bAND\b")


def layer_conditioning(p: Any, settings: LayerSettings) -> Callable[[int], tuple[Any, Any]] | None:
    """The conditional half with each layer's own prompt before the main one, or None where no layer has its own.

    Returns a function of the sampling step that gives the host's (composition, conditioning).
    """
    additional = [extra_networks.parse_prompt(text)[0].strip() for text in additional_prompts(settings)]
    if not any(additional):
        return None
    mains = p.hr_prompts if p.is_hr_pass else p.prompts
    prompts = [_before_each_part(additional[i % len(additional)], main) for i, main in enumerate(mains)]
    conditioning = webui.multicond(p.sd_model, _sized(p, prompts), *_steps(p))

    def at_step(step: int) -> tuple[Any, Any]:
        return prompt_parser.reconstruct_multicond_batch(conditioning, step)

    return at_step


def _before_each_part(additional: str, main: str) -> str:
    return " AND ".join(layer_prompt(additional, part.strip()) for part in _AND.split(main)) if additional else main


def _sized(p: Any, prompts: list[str]) -> Any:
    hires = p.is_hr_pass
    return webui.sized_prompts(
        prompts,
        width=p.hr_upscale_to_x if hires else p.width,
        height=p.hr_upscale_to_y if hires else p.height,
        distilled=getattr(p, "hr_distilled_cfg" if hires else "distilled_cfg_scale", None),
    )


def _steps(p: Any) -> tuple[int, int | None]:
    """Steps of the first pass and, in a second one, of that: prompt editing counts through both."""
    if not p.is_hr_pass:
        return p.firstpass_steps, None
    steps = p.hr_second_pass_steps or p.steps
    sampler = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
    return p.firstpass_steps, sampler.total_steps(steps) if sampler else steps
