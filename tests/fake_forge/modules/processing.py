"""The host's main loop: hooks in their order, forge objects reset before every pass."""

import copy
import json

import numpy as np
import torch
from PIL import Image

from modules import extra_networks, images, prompt_parser, scripts, sd_samplers, shared


class DecodedSamples(list):
    already_decoded = True


class Processed:
    def __init__(self, p, pictures, infotexts):
        self.images, self.infotexts, self.extra_images = pictures, infotexts, p.extra_result_images
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        self.extra_generation_params = p.extra_generation_params
        self.index_of_first_image = 0

    def js(self):
        answer = {"extra_generation_params": self.extra_generation_params, "infotexts": self.infotexts}
        return json.dumps(answer, default=lambda _: None)


class StableDiffusionProcessing:
    enable_hr = is_hr_pass = False
    init_images = mask = paste_to = overlay_images = mask_for_overlay = None
    sampler_name = "Euler"
    distilled_cfg_scale = hr_distilled_cfg = 3.5
    sampler = refiner = firstpass_image = None
    txt2img_upscale = False
    refiner_switch_at = 0.8
    subseed = -1

    def __init__(self, **values):
        self.prompt, self.negative_prompt, self.seed = "an apple", "", 1
        self.batch_size = self.n_iter = 1
        self.steps, self.cfg_scale, self.hr_cfg = 2, 2.0, 2.0
        self.width = self.height = 64
        self.interrupt_at = None
        self.denoising_strength = 0.75
        self.extra_result_images, self.comments, self.extra_generation_params = [], {}, {}
        self.latents_after_sampling, self.all_hr_prompts = [], None
        self.do_not_save_samples = True
        self.outpath_samples = "outputs"
        vars(self).update(values)

    @property
    def sd_model(self):
        return shared.sd_model

    def comment(self, text):
        self.comments[text] = 1

    def save_samples(self):
        return not self.do_not_save_samples

    def get_token_merging_ratio(self, for_hr=False):
        return 0

    def setup_conds(self):
        self.firstpass_steps = self.steps
        prompts = prompt_parser.SdConditioning(self.prompts)
        self.c = prompt_parser.get_multicond_learned_conditioning(self.sd_model, prompts, self.steps)
        uncond = self.sd_model.get_learned_conditioning([self.negative_prompt] * len(self.prompts))
        self.uc = None if self.cfg_scale == 1 else uncond

    def reset_objects(self):
        self.sd_model.forge_objects = self.sd_model.forge_objects_after_applying_lora.shallow_copy()

    def noise(self, height, width):
        drawn = []
        for seed in self.seeds:
            torch.manual_seed(seed)
            drawn.append(torch.randn(4, height, width))
        return torch.stack(drawn)

    def decode(self, samples):
        vae = self.sd_model.forge_objects.vae
        return DecodedSamples(vae.decode(vae.first_stage_model.scale_out(samples)).movedim(-1, 1) * 2 - 1)


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    def init(self, prompts, seeds):
        self.hr_upscale_to_x, self.hr_upscale_to_y = self.width * 2, self.height * 2

    def sample(self):
        self.sampler = sd_samplers.Sampler(self.sd_model)
        if self.firstpass_image is not None and self.enable_hr:
            return self._upscaled()
        x = self.noise(self.height // 8, self.width // 8)
        self.reset_objects()
        self.get_token_merging_ratio()
        self.scripts.call("process_before_every_sampling", self, x=x, noise=x, c=self.c, uc=self.uc)
        samples = self.sampler.sample(self, x, self.c, self.uc)
        return self._second_pass(samples) if self.enable_hr and not shared.state.interrupted else samples

    @property
    def latent_scale_mode(self):
        return None if self.enable_hr == "pixels" else {"mode": "nearest"}

    def _upscaled(self):
        """The gallery's upscale button: from the picture itself, three channels of it."""
        pixels = torch.from_numpy(np.array(self.firstpass_image).astype(np.float32) / 255.0)[None]
        if pixels.shape[-1] != 3:
            raise RuntimeError(f"expected input[1, {pixels.shape[-1]}] to have 3 channels")
        if self.enable_hr == "pixels":
            return self._second_pass(None, pixels.movedim(-1, 1))
        vae = self.sd_model.forge_objects.vae
        return self._second_pass(vae.first_stage_model.scale_in(vae.encode(pixels)))

    def _second_pass(self, samples, pixels=None):
        self.is_hr_pass, self.hr_prompts = True, self.prompts
        self.hr_second_pass_steps, self.hr_sampler_name = 0, None
        size = (self.hr_upscale_to_y // 8, self.hr_upscale_to_x // 8)
        if self.enable_hr == "pixels":
            if pixels is None:
                pixels = (torch.stack(self.decode(samples)).clamp(-1, 1) + 1) / 2
            pixels = torch.nn.functional.interpolate(pixels, scale_factor=2)
            vae = self.sd_model.forge_objects.vae
            samples = vae.first_stage_model.scale_in(vae.encode(pixels.movedim(1, -1)))
        else:
            samples = torch.nn.functional.interpolate(samples, size=size)
        self.sampler = sd_samplers.Sampler(self.sd_model)
        noise = self.noise(*size)
        for before in (lambda: None, self.reset_objects):
            before()
            self.scripts.call("process_before_every_sampling", self, x=samples, noise=noise, c=self.c, uc=self.uc)
        samples = self.sampler.sample_img2img(self, samples, noise, self.c, self.uc)
        self.sampler = None
        decoded = self.decode(samples)
        self.is_hr_pass = False
        return decoded


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    resize_mode = 0
    inpaint_full_res = False

    def init(self, prompts, seeds):
        crop = None
        if self.mask is not None:
            self.overlay_images, self.mask_for_overlay = [], self.mask
            if self.inpaint_full_res:
                crop = self.mask.getbbox()
                self.paste_to = (crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1])
        self.scripts.call("before_process_init_images", self, {"crop_region": crop, "image_mask": self.mask})
        seen = []
        for picture in self.init_images:
            image = images.flatten(picture, shared.opts.img2img_background_color)
            if crop is None:
                image = images.resize_image(self.resize_mode, image, self.width, self.height)
            if self.mask is not None:
                overlay = image.convert("RGBA")
                overlay.putalpha(self.mask.point(lambda level: 255 - level))
                self.overlay_images.append(overlay)
            if crop is not None:
                image = images.resize_image(2, image.crop(crop), self.width, self.height)
            seen.append(torch.from_numpy(np.asarray(image).astype(np.float32) / 255.0))
        if len(seen) == 1:
            seen *= self.batch_size
            self.overlay_images = None if self.overlay_images is None else self.overlay_images * self.batch_size
        elif len(seen) > self.batch_size:
            raise RuntimeError(f"bad number of images passed: {len(seen)}")
        self.batch_size = len(seen)
        vae = self.sd_model.forge_objects.vae
        latents = torch.cat([vae.encode(pixels[None]) for pixels in seen])
        self.init_latent = vae.first_stage_model.scale_in(latents)

    def sample(self):
        self.sampler = sd_samplers.Sampler(self.sd_model)
        x = self.noise(self.height // 8, self.width // 8)
        self.reset_objects()
        self.get_token_merging_ratio()
        self.scripts.call("process_before_every_sampling", self, x=self.init_latent, noise=x, c=self.c, uc=self.uc)
        return self.sampler.sample_img2img(self, self.init_latent, x, self.c, self.uc)


def create_infotext(p, prompts, seeds, subseeds, index=0, all_negative_prompts=None):
    p.get_token_merging_ratio()
    parameters = ", ".join(f"{key}: {value}" for key, value in p.extra_generation_params.items())
    return f"{prompts[index]}\nSteps: {p.steps}, Seed: {seeds[index]}, {parameters}"


def sized(width, height):
    """What a host makes of the size that was asked for, once scripts have seen the request."""
    return width, height


def process_images(p):
    p.scripts.call("before_process", p)
    p.width, p.height = sized(p.width, p.height)
    shared.state.interrupted = False
    prompts = p.prompt if isinstance(p.prompt, list) else [p.prompt] * (p.batch_size * p.n_iter)
    seeds = p.seed if isinstance(p.seed, list) else [p.seed + i for i in range(len(prompts))]
    p.all_prompts, p.all_seeds = list(prompts), seeds
    p.all_negative_prompts = [p.negative_prompt] * len(prompts)
    main_model = shared.sd_model
    p.scripts.call("process", p)
    with torch.inference_mode():
        p.init(p.all_prompts, p.all_seeds)
        results = []
        for number in range(p.n_iter):
            shared.sd_model = main_model  # a refiner has taken its place
            if not shared.state.interrupted:
                results.append(_batch(p, number))
        shared.sd_model = main_model
    processed = Processed(p, [i for r in results for i in r[0]], [t for r in results for t in r[1]])
    p.scripts.call("postprocess", p, processed)
    return processed


def _batch(p, number):
    p.iteration = number
    chosen = slice(number * p.batch_size, (number + 1) * p.batch_size)
    p.sd_model.forge_objects = p.sd_model.forge_objects_original.shallow_copy()
    p.prompts, p.seeds, p.subseeds = p.all_prompts[chosen], p.all_seeds[chosen], p.all_seeds[chosen]
    p.negative_prompts = p.all_negative_prompts[chosen]
    p.prompts, tags = extra_networks.parse_prompts(p.prompts)
    extra_networks.activate(p, tags)
    p.reset_objects()
    p.setup_conds()
    samples = p.sample()
    p.latents_after_sampling.extend(samples)
    post = scripts.PostSampleArgs(samples)
    p.scripts.call("post_sample", p, post)
    decoded = post.samples if getattr(post.samples, "already_decoded", False) else p.decode(post.samples)
    pixels = torch.clamp((torch.stack(decoded).float() + 1) / 2, 0, 1)
    p.scripts.call("postprocess_batch", p, images=pixels, batch_number=number)
    p.prompts = p.all_prompts[chosen]
    saves = p.save_samples()
    results = [_picture(p, i, value, saves) for i, value in enumerate(pixels)]
    return [image for image, _ in results], [text for _, text in results]


def apply_overlay(image, paste_to, overlay):
    if overlay is None:
        return image
    if paste_to is not None:
        x, y, width, height = paste_to
        whole = Image.new("RGBA", overlay.size)
        whole.paste(images.resize_image(1, image, width, height), (x, y))
        image = whole
    image = image.convert("RGBA")
    image.alpha_composite(overlay)
    return image.convert("RGB")


def _picture(p, index, value, saves):
    p.batch_index = index
    image = Image.fromarray((255.0 * np.moveaxis(value.cpu().numpy(), 0, 2)).astype(np.uint8))
    number = index + p.iteration * p.batch_size
    post = scripts.PostprocessImageArgs(image, number)
    p.scripts.call("postprocess_image", p, post)
    overlay = p.overlay_images[index] if p.overlay_images and shared.opts.overlay_inpaint else None
    masked = scripts.PostProcessMaskOverlayArgs(index, p.mask_for_overlay, overlay)
    p.scripts.call("postprocess_maskoverlay", p, masked)
    image = apply_overlay(post.image, p.paste_to, masked.overlay_image)
    post = scripts.PostprocessImageArgs(image, number)
    p.scripts.call("postprocess_image_after_composite", p, post)
    text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=index)
    if saves:
        chosen = shared.opts.samples_format
        images.save_image(post.image, p.outpath_samples, "", p.seeds[index], p.prompts[index], chosen, info=text, p=p)
    return post.image, text


def shallow_copy(p):
    """What the X/Y/Z plot makes of `p` for each cell."""
    return copy.copy(p)
