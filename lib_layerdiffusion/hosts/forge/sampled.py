"""What the host sampled last, kept for decoding: latents in the sampler's scale, and the VAE's own pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.hosts.forge import control
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend
from lib_layerdiffusion.settings.fields import LatentScale


class Sampled:
    """The last batch of one run on the processing object `p`."""

    def __init__(self, p: Any, backend: Backend) -> None:
        self._p = p
        self._backend = backend
        self._latents: Tensor | None = None
        self._pixels: Tensor | None = None

    def watch(self, sampler: Any) -> None:
        """See what a sampler returns: the last latent of a second pass is handed on as decoded pixels only."""

        def sample(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._latents = original(*args, **kwargs)
            return self._latents

        for name in ("sample", "sample_img2img"):
            control.Replacement(sampler, name, sample)

    def take_latents(self, samples: Any) -> None:
        """Take the batch [B, 4, h, w] in the sampler's scale, unless it is decoded already."""
        if not getattr(samples, "already_decoded", False):
            self._latents = samples

    def take_pixels(self, pixels: Tensor) -> None:
        """Take the batch [B, 3, H, W] in [0, 1] as the VAE decoded it."""
        self._pixels = pixels.clone()

    def forget(self) -> None:
        """Let go of both; they would live as long as the processing object."""
        self._latents = self._pixels = None

    def decoder_input(self, image: Image.Image, index: int, scale: LatentScale) -> tuple[Tensor, Tensor]:
        """Pixels [1, 3, H, W] in [0, 1] and the latent [1, 4, h, w] in the chosen scale.

        Pixels are the VAE's own, not rounded, unless face restoration or another extension changed the picture.

        image: what the host has in the picture's place by now. index: in the batch.

        Raises:
            InputError: nothing was sampled.
        """
        if self._latents is None or self._pixels is None:
            raise InputError("Nothing was sampled.")
        pixels, latent = self._pixels[index : index + 1].float(), self._latents[index : index + 1].float()
        rounded = (pixels * 255.0).to(torch.uint8)  # the host truncates
        seen = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        masked = bool(getattr(self._p, "overlay_images", None))
        if seen.shape == rounded.shape and not masked and not torch.equal(seen, rounded.cpu()):
            rounded = seen
            pixels = seen.float() / 255.0
        if scale is LatentScale.SAMPLER:
            return rounded.float() / 255.0, latent
        return pixels, self._backend.latent_out(self._p.sd_model, latent)
