"""What the host sampled last, kept for decoding: latents in the sampler's scale, and the VAE's own pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from modules import images
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.hosts.forge import control
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend
from lib_layerdiffusion.settings.fields import LatentScale

CROP_AND_RESIZE = 1
"""Host's way to bring a sampled picture to the size of the area that it is pasted into."""
Place = tuple[int, int, int, int]
"""left, top, width and height of an area in pixels."""


@dataclass(frozen=True)
class DecoderInput:
    """What a layer is decoded from.

    pixels: [1, 3, H, W] in [0, 1]. latent: [1, 4, h, w] in the scale that was asked for. changed: the picture as
    another script left it where it has another size, uint8 [H', W', 3], else None.
    """

    pixels: Tensor
    latent: Tensor
    changed: NDArray[np.uint8] | None = None


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
            try:
                self._latents = original(*args, **kwargs)
            except LayerDiffusionError as error:  # a step found it
                control.let_api_answer(error)
                raise
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

    def decoder_input(
        self, image: Image.Image, index: int, scale: LatentScale, *, place: Place | None, covered: bool
    ) -> DecoderInput:
        """What the layer at `index` of the batch is decoded from.

        Pixels are the VAE's own, not rounded, unless face restoration or another extension changed the picture.

        image: what the host has in the picture's place by now. place: where in it the host pasted the sampled picture,
        None where it is the whole of it. covered: the host laid an init picture over it, so that it tells nothing.

        Raises:
            InputError: nothing was sampled.
        """
        if self._latents is None or self._pixels is None or index >= len(self._pixels):
            raise InputError("Nothing was sampled.")
        pixels, latent = self._pixels[index : index + 1].float(), self._latents[index : index + 1].float()
        rounded = (pixels * 255.0).to(torch.uint8).cpu()  # the host truncates
        seen = None if covered else _changed(image, _as_array(rounded), place)
        resized = seen is not None and seen.shape[:2] != tuple(rounded.shape[2:])
        if seen is not None and not resized:
            rounded = torch.from_numpy(seen).permute(2, 0, 1)[None]
            pixels = rounded.float() / 255.0
        if scale is LatentScale.SAMPLER:
            pixels = rounded.float() / 255.0
        else:
            latent = self._backend.latent_out(self._p.sd_model, latent)
        return DecoderInput(pixels, latent, seen if resized else None)


def _as_array(pixels: Tensor) -> NDArray[np.uint8]:
    """uint8 [1, 3, H, W] -> [H, W, 3]."""
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())


def _changed(image: Image.Image, made: NDArray[np.uint8], place: Place | None) -> NDArray[np.uint8] | None:
    """The picture as other scripts left it, uint8 [H, W, 3], None where they did nothing to `made`."""
    seen = np.array(image.convert("RGB"))
    if place is None:
        return None if np.array_equal(seen, made) else seen
    left, top, width, height = place
    area = seen[top : top + height, left : left + width]
    if np.array_equal(area, np.asarray(images.resize_image(CROP_AND_RESIZE, Image.fromarray(made), width, height))):
        return None
    size = (made.shape[1], made.shape[0])
    return np.array(Image.fromarray(area).resize(size, Image.Resampling.LANCZOS))
