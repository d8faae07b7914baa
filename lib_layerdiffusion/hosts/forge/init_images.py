"""Image-to-image: alpha of the init pictures goes into their latents, and outside the mask it stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from modules import shared
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge import vae, webui
from lib_layerdiffusion.hosts.forge.control import Replacement
from lib_layerdiffusion.images.arithmetic import flatten_on_grey
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.images.start import resized_rgba

LATENT_UPSCALE = 3
"""Host's resize mode in which the picture keeps its size and its latent is resized."""
RESIZE_AND_FILL, CROP_AND_RESIZE = 2, 1

Encode = Callable[[Picture], Tensor]


class InitPictures:
    """The init pictures of one run, all of them, as RGBA.

    pictures: uint8 RGBA [H, W, 4]; one serves the whole batch, several are one for each item.
    """

    def __init__(self, p: Any, pictures: Sequence[Picture], is_rgba: Callable[[int], bool]) -> None:
        self._p = p
        self._pictures = pictures
        self._is_rgba = is_rgba
        self._offsets: list[Tensor] = []
        self._encoded = 0
        self._masks: dict[int, Image.Image] = {}

    def prepare(self, crop_region: tuple[int, int, int, int] | None, encode: Encode) -> None:
        """Compute the offsets and hand the host the pictures that its VAE has to see, flattened on grey.

        crop_region: what the host cuts out where only the masked area is painted.
        """
        self._encoded = 0
        self._offsets = [encode(_multiple_of_8(self._as_encoded(picture, crop_region))) for picture in self._pictures]
        self._p.init_images = [Image.fromarray(flatten_on_grey(picture)) for picture in self._pictures]

    def prepare_for_second_pass(self, size: tuple[int, int] | None, encode: Encode) -> Image.Image:
        """The one picture, flattened for the host's second pass, which starts from it; its offset is computed.

        size: (width, height) to which the host's upscaler brings it before it is encoded, None where the host resizes
        the latent instead.
        """
        self._encoded = 0
        picture = self._pictures[0]
        seen = picture if size is None else _resized(picture, 0, *size)
        self._offsets = [encode(_multiple_of_8(seen))]
        return Image.fromarray(flatten_on_grey(picture))

    def _as_encoded(self, picture: Picture, crop_region: tuple[int, int, int, int] | None) -> Picture:
        """The picture after the host's own crop and resize."""
        if crop_region is not None:
            cut = Image.fromarray(picture).crop(crop_region)
            return _resized(np.asarray(cut), RESIZE_AND_FILL, self._p.width, self._p.height)
        return self._as_result(picture)

    def _as_result(self, picture: Picture) -> Picture:
        mode = self._p.resize_mode
        return picture if mode == LATENT_UPSCALE else _resized(picture, mode, self._p.width, self._p.height)

    @contextmanager
    def prepared_late(self, encode: Encode) -> Iterator[None]:
        """For a host without a hook before it reads its init pictures: prepare when its VAE is about to encode them."""
        self._p.init_images = [Image.fromarray(flatten_on_grey(picture)) for picture in self._pictures]

        def encode_prepared(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not self._offsets:
                left, top, width, height = self._p.paste_to or (0, 0, 0, 0)
                crop = None if self._p.paste_to is None else (left, top, left + width, top + height)
                self.prepare(crop, encode)
            return original(*args, **kwargs)

        replaced = Replacement(self._p.sd_model.forge_objects.vae, "encode", encode_prepared)
        try:
            yield
        finally:
            replaced.restore()

    @contextmanager
    def regulated_vae(self) -> Iterator[None]:
        """Let the VAE place each RGBA item at `mean + std * offset`; its own way of sampling comes back in any case.

        The host encodes one item at a time and in batch order; what it encodes after them is no init picture.

        Raises:
            HostError: it encoded in another way, which would have dropped the alpha.
        """
        with vae.encoding(self._p.sd_model.forge_objects.vae, self._regulate):
            yield
        if self._offsets and self._encoded < self._expected():
            raise HostError(
                "The VAE did not take the alpha of the init picture: set the VAE encode method to Full and "
                "switch tiled VAE encoding off."
            )

    def _expected(self) -> int:
        return self._p.batch_size if len(self._pictures) == 1 else len(self._pictures)

    def _regulate(self, mean: Tensor, std: Tensor) -> Tensor:
        index, self._encoded = self._encoded, self._encoded + mean.shape[0]
        if index >= self._expected() or not self._offsets or not self._is_rgba(index):
            return vae.drawn(mean, std)
        return vae.offset_by(self._offsets[index % len(self._offsets)])(mean, std)

    def uncover(self, overlay: Any) -> None:
        """Take off what the host would lay over the picture at `overlay.index`, and keep its mask for `blend`.

        A transparent overlay stays where the host pastes the sampled picture into a larger one.
        """
        if overlay.overlay_image is None or overlay.mask_for_overlay is None:
            return
        self._masks[overlay.index] = overlay.mask_for_overlay.convert("L")
        size = overlay.overlay_image.size
        overlay.overlay_image = None if self._p.paste_to is None else Image.new("RGBA", size)

    def pasted(self, index: int) -> tuple[tuple[int, int, int, int] | None, bool]:
        """Where in the host's picture the sampled one lies, None for all of it; and whether an init picture covers it.

        index: in the batch.
        """
        if not getattr(self._p, "overlay_images", None) or not shared.opts.overlay_inpaint:
            return None, False
        return self._p.paste_to, index not in self._masks

    def blend(self, layer: Picture, index: int) -> Picture:
        """Lay a decoded layer into its init picture where the mask says so; without a mask it is the layer itself.

        layer: uint8 [H, W, 4] at the size of the sampled picture, or at another one if a script has changed that.
        index: in the batch.
        """
        p = self._p
        mask = self._masks.pop(index, None) or getattr(p, "mask_for_overlay", None)
        if mask is None or not getattr(p, "overlay_images", None) or not shared.opts.overlay_inpaint:
            return layer
        original = self._pictures[index % len(self._pictures)]
        if p.paste_to is None:
            base = resized_rgba(self._as_result(original), *layer.shape[:2])
        else:
            base, layer = original, _uncropped(layer, original.shape[:2], p.paste_to)
        size = (base.shape[1], base.shape[0])
        coverage = np.asarray(mask.convert("L").resize(size) if mask.size != size else mask.convert("L"))
        return _mixed(layer, base, coverage)


def _resized(picture: Picture, mode: int, width: int, height: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(webui.resized_rgba(mode, Image.fromarray(picture), width, height))


def _multiple_of_8(picture: Picture) -> Picture:
    height, width = (side - side % 8 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[:height, :width])


def _uncropped(layer: Picture, size: tuple[int, ...], paste_to: tuple[int, int, int, int]) -> Picture:
    x, y, width, height = paste_to
    whole = Image.new("RGBA", (size[1], size[0]))
    whole.paste(Image.fromarray(_resized(layer, CROP_AND_RESIZE, width, height)), (x, y))
    return np.asarray(whole)


def _mixed(layer: Picture, base: Picture, coverage: NDArray[np.uint8]) -> Picture:
    """`layer` where coverage is 255, `base` where it is 0 and colours weighted by alpha in between."""
    share = coverage[..., None].astype(np.float32) / 255.0
    over, under = layer.astype(np.float32), base.astype(np.float32)
    weight_over, weight_under = share * over[..., 3:], (1 - share) * under[..., 3:]
    alpha = weight_over + weight_under
    colour = (over[..., :3] * weight_over + under[..., :3] * weight_under) / np.maximum(alpha, 1e-6)
    mixed = np.rint(np.concatenate([colour, alpha], axis=-1)).clip(0, 255).astype(np.uint8)
    mixed = np.where(share >= 1, layer, mixed)
    return np.where(share <= 0, base, mixed)
