"""Alpha on disk and in the API: Forge's stealth infotext overwrites it, and what writes other formats drops it."""

from __future__ import annotations

import base64
import inspect
import io
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from modules import images, processing, shared
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.hosts.forge.control import extend
from lib_layerdiffusion.hosts.forge.results import describing, shown_on
from lib_layerdiffusion.images.opacity import LOWEST_OPAQUE
from lib_layerdiffusion.settings.infotext import names_layers

WITHOUT_ALPHA = "Files in the format {chosen} hold no alpha, so pictures with alpha are saved as PNG."
_TEXT = "parameters"
_SOFT, _TOLERANCE = 128, 8
"""A level of alpha, and how far from it a format may come: what knows only clear and solid keeps no alpha."""


def has_transparency(image: Image.Image) -> bool:
    """Whether any pixel of the picture is not opaque; the host's own text in the last bit of alpha is no sign of it."""
    return image.mode == "RGBA" and image.getextrema()[3][0] < LOWEST_OPAQUE


def is_made_here(image: Image.Image, *infotexts: object) -> bool:
    """Whether this extension made a picture: it is a result of this process, or an infotext of it says so.

    infotexts: those that are known beside the one in the picture.
    """
    if shown_on(image) is not None:
        return True
    inside = image.info.get(_TEXT)
    if inside is None and "exif" in image.info:
        inside, _ = images.read_info_from_image(image)
    return any(isinstance(text, str) and names_layers(text) for text in (inside, *infotexts))


def keep_alpha() -> None:
    """Let alpha through where the host would drop it: in stealth infotext, in files of any format, in the API's answer.

    The answer's info gets the description of our pictures.
    """
    extend(processing.Processed, "js", describing)
    stealth = webui.optional("modules.stealth_infotext")
    if stealth is not None:
        extend(stealth, "add_stealth_pnginfo", _unless_transparent)
    for name, extended in {"save_image": _in_a_format_with_alpha, "save_image_with_geninfo": _webp_with_alpha}.items():
        if hasattr(images, name):
            extend(images, name, extended)
    api = sys.modules.get("modules.api.api")  # not there where the API is off
    if api is not None:
        extend(api, "encode_pil_to_base64", _as_png_where_needed)


def _unless_transparent(write: Callable[..., Any]) -> Callable[..., Any]:
    """Stealth infotext goes into the alpha channel of every PNG, which is set to opaque first.

    The infotext of what it passes over stands in a text chunk. Every saver goes through it, the gallery's button
    included, so an option set for the time of a run would not be enough.
    """

    def write_unless_transparent(params: Any) -> None:
        if not has_transparency(params.image):
            write(params)

    return write_unless_transparent


def _in_a_format_with_alpha(save: Callable[..., Any]) -> Callable[..., Any]:
    """A picture with alpha becomes a PNG where its format has none, as the host does it where a format is too small.

    Samples, the Save and Zip buttons, grids and the Extras tab all save by this function.
    """
    signature = inspect.signature(save)

    def save_with_alpha(*args: Any, **named: Any) -> Any:
        bound = signature.bind(*args, **named)
        bound.apply_defaults()
        given = bound.arguments
        texts = (given.get("info"), (named.get("existing_info") or {}).get(_TEXT))
        if not keeps_alpha(given["extension"]) and _is_layer(given["image"], *texts):
            given["extension"] = "png"
        return save(*bound.args, **bound.kwargs)

    return save_with_alpha


def _webp_with_alpha(write: Callable[..., Any]) -> Callable[..., Any]:
    """Write WEBP with alpha, which hosts take off; its infotext is the one that they wrote."""

    def write_with_alpha(image: Any, geninfo: Any, filename: Any, *args: Any, **named: Any) -> Any:
        result = write(image, geninfo, filename, *args, **named)
        text = (named.get("existing_pnginfo") or {}).get(_TEXT)  # of a picture that went through the Extras tab
        if not _is_layer(image, geninfo, text) or not Path(filename).is_file():
            return result
        try:
            with Image.open(filename, formats=["WEBP"]) as written:
                lost, exif = written.mode != "RGBA", written.info.get("exif", b"")
        except UnidentifiedImageError:
            return result
        if lost:
            way = {"quality": shared.opts.jpeg_quality, "lossless": shared.opts.webp_lossless}
            image.save(filename, format="WEBP", exif=exif, exact=True, **way)
        return result

    return write_with_alpha


def _is_layer(image: Any, *infotexts: object) -> bool:
    return isinstance(image, Image.Image) and has_transparency(image) and is_made_here(image, *infotexts)


def _as_png_where_needed(encode: Callable[..., Any]) -> Callable[..., Any]:
    """The API answers in the format that is chosen for files, with an error where it does not know that one.

    A layer is a PNG in any case, and so is what the host cannot encode.
    """

    def encode_with_alpha(image: Any) -> Any:
        if isinstance(image, Image.Image) and has_transparency(image):
            return _as_png(image)
        try:
            return encode(image)
        except HTTPException:
            return _as_png(image)

    return encode_with_alpha


def _as_png(image: Image.Image) -> bytes:
    """PNG in base64, with the picture's texts."""
    text = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            text.add_text(key, value)
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=text)
    return base64.b64encode(content.getvalue())


@cache
def keeps_alpha(file_format: str) -> bool:
    """Whether alpha comes back from a file of this format, such as "webp"; found by writing one into memory."""
    name = Image.registered_extensions().get(f".{file_format.lower()}")
    content = io.BytesIO()
    try:
        Image.new("RGBA", (16, 16), (90, 90, 90, _SOFT)).save(content, format=name, quality=80)
        levels = Image.open(content, formats=[str(name)]).convert("RGBA").getextrema()[3]
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all(abs(level - _SOFT) <= _TOLERANCE for level in levels)


def format_note(p: Any) -> str | None:
    """What is said before sampling where the pictures of `p` are saved in a format without alpha."""
    chosen = shared.opts.samples_format
    return None if keeps_alpha(chosen) or not p.save_samples() else WITHOUT_ALPHA.format(chosen=chosen.upper())


def saves_other_than_png(p: Any) -> bool:
    """Whether the host saves the pictures of `p`, and in another format than PNG."""
    return shared.opts.samples_format.lower() != "png" and bool(p.save_samples())


def to_image(rgba: np.ndarray[Any, Any]) -> Image.Image:
    """uint8 [H, W, 3 or 4] -> Pillow image."""
    return Image.fromarray(np.ascontiguousarray(rgba))
