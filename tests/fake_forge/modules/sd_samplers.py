from types import SimpleNamespace

import torch
from fakehost.sampling import sampling_function, sampling_prepare

from modules import prompt_parser, shared


def find_sampler_config(name):
    return SimpleNamespace(total_steps=lambda steps: steps)


class Sampler:
    """Euler's method; interrupted, it returns what it has."""

    def __init__(self, sd_model):
        self.sd_model = sd_model
        self.model_wrap_cfg = SimpleNamespace(step=0)

    def sample(self, p, x, cond, uncond, steps=None, image_conditioning=None):
        steps = steps or p.steps
        sigmas = torch.linspace(self.sd_model.forge_objects.unet.model.schedule.sigma_max, 0.0, steps + 1)
        return self._run(p, x * sigmas[0], sigmas, cond, uncond)

    def sample_img2img(self, p, x, noise, cond, uncond, steps=None, image_conditioning=None):
        steps = steps or p.steps
        sigmas = torch.linspace(self.sd_model.forge_objects.unet.model.schedule.sigma_max, 0.0, steps + 1)
        sigmas = sigmas[steps - max(1, int(p.denoising_strength * steps)) :]
        return self._run(p, x + noise * sigmas[0], sigmas, cond, uncond)

    def _run(self, p, x, sigmas, cond, uncond):
        sampling_prepare(self.sd_model.forge_objects.unet, x)
        for step in range(len(sigmas) - 1):
            shared.state.sampling_step = step
            if shared.state.interrupted or step == p.interrupt_at:
                shared.state.interrupted = True
                break
            self.model_wrap_cfg.step = step
            if p.refiner is not None and step / (len(sigmas) - 1) >= p.refiner_switch_at:
                cond, uncond = self._refiner(p, x, cond, uncond)
            composition, text = prompt_parser.reconstruct_multicond_batch(cond, step)
            sigma = sigmas[step].expand(len(x))
            denoised = sampling_function(
                p, x, sigma, text, composition, uncond, p.hr_cfg if p.is_hr_pass else p.cfg_scale
            )
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        return x

    def _refiner(self, p, x, cond, uncond):
        if shared.sd_model is p.refiner:
            return cond, uncond
        shared.sd_model = p.refiner
        p.sd_model.forge_objects = p.sd_model.forge_objects_original.shallow_copy()
        p.setup_conds()
        sampling_prepare(p.sd_model.forge_objects.unet, x)
        return p.c, p.uc
