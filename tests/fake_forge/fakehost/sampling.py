"""One guided step: both halves in a call, or one after the other where contexts cannot be joined."""

import torch

from fakehost.condition import compile_conditions, compile_weighted_conditions, joined
from fakehost.memory_management import load_models_gpu


def sampling_prepare(unet, x):
    load_models_gpu([unet, *unet.extra_model_patchers_during_sampling])


def calc_cond_uncond_batch(model, cond, uncond, x, sigma, options):
    groups = [(group, 0) for group in cond] + [(group, 1) for group in uncond or []]
    groups.reverse()  # unconditional rows come first
    rows = len(x)
    contexts = joined([group["model_conds"]["c_crossattn"].cond for group, _ in groups])
    concats = [group["model_conds"]["c_concat"].cond for group, _ in groups if "c_concat" in group["model_conds"]]
    marks = [mark for _, mark in groups]
    transformer_options = {
        **options["transformer_options"],
        "cond_or_uncond": marks,
        "cond_mark": torch.tensor(marks).repeat_interleave(rows),
    }
    outputs = model.apply_model(
        x.repeat(len(groups), 1, 1, 1),
        sigma.repeat(len(groups)),
        contexts,
        torch.cat(concats) if concats else None,
        transformer_options,
    ).chunk(len(groups))
    strength = sum(group.get("strength", 1.0) for group, mark in groups if mark == 0)
    conditional = [o * g.get("strength", 1.0) for o, (g, mark) in zip(outputs, groups, strict=True) if mark == 0]
    unconditional = [o for o, mark in zip(outputs, marks, strict=True) if mark == 1]
    return sum(conditional) / strength, unconditional[0] if unconditional else None


def sampling_function(p, x, sigma, cond, composition, uncond, scale):
    unet = p.sd_model.forge_objects.unet
    model, options = unet.model, unet.model_options
    cond = compile_weighted_conditions(cond, composition)
    uncond = None if uncond is None else compile_conditions(uncond)
    for modifier in options.get("conditioning_modifiers", []):
        model, x, sigma, uncond, cond, scale, options, _ = modifier(
            model, x, sigma, uncond, cond, scale, options, p.seeds[0]
        )
    positive, negative = calc_cond_uncond_batch(model, cond, None if scale == 1 else uncond, x, sigma, options)
    denoised = positive if negative is None else negative + (positive - negative) * scale
    for function in options.get("sampler_post_cfg_function", []):
        args = {"denoised": denoised, "cond": cond, "model": model, "sigma": sigma, "input": x}
        denoised = function({**args, "cond_denoised": positive, "model_options": options})
    return denoised
