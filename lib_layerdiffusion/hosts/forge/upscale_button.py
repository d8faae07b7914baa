"""The gallery's upscale button: the host runs its second pass on one finished picture, which may have alpha."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from modules import images, shared

from lib_layerdiffusion.hosts.forge import control
from lib_layerdiffusion.hosts.forge.init_images import Encode, InitPictures
from lib_layerdiffusion.images.opacity import has_transparency
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.methods import METHODS
from lib_layerdiffusion.settings.parsing import LayerSettings


def picture(p: Any) -> Picture | None:
    """The picture that is to be upscaled, uint8 RGBA [H, W, 4], None where this run is no upscaling of one.

    Raises:
        InputError: it cannot be read.
    """
    given = getattr(p, "firstpass_image", None)
    return None if given is None else read_picture(given, "chosen")


def fitting(p: Any, settings: LayerSettings) -> LayerSettings:
    """The settings for one picture: a frame of a set is upscaled by itself, a foreground with its alpha.

    Where no method is to take the picture, its alpha is taken off, since the host's second pass reads three channels.
    """
    chosen = picture(p)
    if chosen is None:
        return settings
    if settings.enabled and settings.method.frame_count > 1:
        alone = METHODS.alone(settings.method.family) if has_transparency(chosen) else None
        settings = replace(settings, enabled=False) if alone is None else replace(settings, method=alone)
    if not settings.enabled or not settings.method.has_alpha:
        p.firstpass_image = _three_channels(p.firstpass_image, transparent=has_transparency(chosen))
    return settings


def _three_channels(image: Any, *, transparent: bool) -> Any:
    ground = shared.opts.img2img_background_color
    return images.flatten(image.convert("RGBA"), ground) if transparent else image.convert("RGB")


def watch(p: Any, chosen: Picture, encode: Encode) -> None:
    """Let the host's second pass on `p` start from the picture with its alpha in the latent."""
    own = InitPictures(p, [chosen], lambda _index: True)

    def sample(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        size = (p.hr_upscale_to_x, p.hr_upscale_to_y) if p.latent_scale_mode is None else None
        p.firstpass_image = own.prepare_for_second_pass(size, encode)
        with own.regulated_vae():
            return original(*args, **kwargs)

    control.Replacement(p, "sample", sample)
