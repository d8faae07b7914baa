"""A diffusers pipeline seen through the library's verbs: family, encode, decode, inject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.engine.host import PromptEmbedding
from lib_layerdiffusion.errors import ModelError
from lib_layerdiffusion.hosts.diffusers.unet import Patch, UNetHandle, inject_unet
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.networks.numbers import broken_numbers, check_numbers
from lib_layerdiffusion.unet.injection import Injection

_WIDTHS = {768: Family.SD15, 2048: Family.SDXL}
_OTHERS = {1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}


def unet_family(config: Any) -> Family:
    """The family of a UNet, read from the width of the text states it takes.

    Raises:
        ModelError: of a family that no method is made for; the message names it.
    """
    width = config.get("cross_attention_dim")
    if width in _WIDTHS:
        return _WIDTHS[width]
    name = _OTHERS.get(width, f"a model with text states of width {width}")
    raise ModelError(f"The loaded model is {name}: load a Stable Diffusion 1.5 or XL model.")


class DiffusersHost:
    """The `Host` of a Stable Diffusion 1.5 or XL pipeline.

    families: what the model answers to, where its architecture does not say (small families); the first is the default.
    """

    def __init__(self, pipeline: Any, families: Sequence[Family] = ()) -> None:
        missing = [part for part in ("unet", "vae", "scheduler") if getattr(pipeline, part, None) is None]
        if missing:
            raise ModelError(
                f"A {type(pipeline).__name__} has no {missing[0]}: use a Stable Diffusion 1.5 or XL pipeline."
            )
        self.pipeline = pipeline
        self.families = tuple(families) or (unet_family(pipeline.unet.config),)

    def family(self) -> Family:
        """The family of the loaded model."""
        return self.families[0]

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes; its weights may wait elsewhere."""
        return self.pipeline._execution_device

    @property
    def scaling(self) -> float:
        """What the VAE's latents are multiplied with for the UNet."""
        return float(self.pipeline.vae.config.scaling_factor)

    @property
    def downscale(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's posterior, in the VAE's scale; pixels [B, 3, H, W] in [0, 1].

        Raises:
            ModelError: they are no numbers, in float32 either.
        """

        def encoded(vae: Any) -> Tensor:
            distribution = vae.encode((pixels * 2 - 1).to(self.device, vae.dtype)).latent_dist
            return torch.stack([distribution.mean.float(), distribution.std.float()])

        mean, deviation = self._by_vae(encoded)
        return mean, deviation

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """VAE-encode [B, 3, H, W] in [0, 1] to [B, 4, H/8, W/8] in the UNet's scale.

        It is the posterior's mean: drawing from it would make pictures depend on the device and on call order.
        """
        return self.posterior(pixels)[0] * self.scaling

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [0, 1], float32, of latents in the UNet's scale; one picture at a time."""

        def decoded(vae: Any) -> Tensor:
            scaled = (latents.float() / self.scaling).to(self.device, vae.dtype)
            return torch.cat([vae.decode(part).sample.float() for part in scaled.split(1)])

        return (self._by_vae(decoded) / 2 + 0.5).clamp(0, 1)

    def broken_part(self) -> str:
        """Which part of the pipeline has weights that nothing can be computed with, in words; "" where none has."""
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            part = getattr(self.pipeline, name, None)
            problem = broken_numbers(part.named_parameters()) if isinstance(part, torch.nn.Module) else ""
            if problem:
                return f"the {name.replace('_', ' ')}'s {problem}"
        return ""

    def inject(
        self,
        injection: Injection,
        *,
        frame_prompts: PromptEmbedding | None = None,
        batch: int | None = None,
        patch: Patch | None = None,
    ) -> UNetHandle:
        """Put `injection` into the UNet until the handle is released; arguments as in `inject_unet`.

        Raises:
            ModelError: the method is for another family. LayerDiffusionError: it does not fit; the UNet is untouched.
        """
        self.check(injection.method.family, injection.method.label)
        return inject_unet(
            self.pipeline.unet,
            injection,
            encode=self.encode_pixels,
            frame_prompts=frame_prompts,
            batch=batch,
            patch=patch,
            device=self.device,
        )

    def check(self, family: Family, label: str) -> None:
        """Make sure that a method of `family` fits the loaded model.

        Raises:
            ModelError: it does not.
        """
        if family not in self.families:
            loaded = " and ".join(self.families)
            raise ModelError(f'"{label}" needs an {family} model, and the loaded one is {loaded}: change one of them.')

    def _by_vae(self, compute: Callable[[Any], Tensor]) -> Tensor:
        """What the VAE computes; once more in float32 where half precision overflows, as SDXL's own does.

        Raises:
            ModelError: the result is no numbers, in float32 either.
        """
        vae = self.pipeline.vae
        own = vae.dtype
        known = own is torch.float16 and vae.config.get("force_upcast", False)
        result = None if known else compute(vae)
        if result is None or (own.itemsize < 4 and not bool(torch.isfinite(result).all())):
            vae.to(torch.float32)
            try:
                result = compute(vae)
            finally:
                vae.to(own)
        check_numbers(result, "The VAE")
        return result
