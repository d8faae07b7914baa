"""Alpha on disk and in the API: Forge's stealth infotext overwrites it, and what writes other formats drops it."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from modules import images, processing, shared
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.hosts.forge.results import describing
from lib_layerdiffusion.images.opacity import LOWEST_OPAQUE

_MARK = "keeps_layerdiffusion_alpha"


def has_transparency(image: Image.Image) -> bool:
    """Whether any pixel of the picture is not opaque; the host's own text in the last bit of alpha is no sign of it."""
    return image.mode == "RGBA" and image.getextrema()[3][0] < LOWEST_OPAQUE


def keep_alpha() -> None:
    """Let transparency through where the host would drop it: in its stealth infotext and in its API's answer.

    The answer's info gets the description of our pictures.
    """
    _extend(processing.Processed, "js", describing)
    stealth = webui.optional("modules.stealth_infotext")
    if stealth is not None:
        _extend(stealth, "add_stealth_pnginfo", _unless_transparent)
    api = sys.modules.get("modules.api.api")  # not there where the API is off
    if api is not None:
        _extend(api, "encode_pil_to_base64", _as_png_where_transparent)


def _extend(owner: Any, name: str, extended: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `extended(own)` in the place of a function of the host's; twice is once."""
    own = getattr(owner, name)
    if not getattr(own, _MARK, False):
        function = extended(own)
        setattr(function, _MARK, True)
        setattr(owner, name, function)


def _unless_transparent(write: Callable[..., Any]) -> Callable[..., Any]:
    """Stealth infotext goes into the alpha channel of every PNG, which is set to opaque first.

    The infotext of what it passes over stands in a text chunk. Every saver goes through it, the gallery's button
    included, so an option set for the time of a run would not be enough.
    """

    def write_unless_transparent(params: Any) -> None:
        if not has_transparency(params.image):
            write(params)

    return write_unless_transparent


def _as_png_where_transparent(encode: Callable[..., Any]) -> Callable[..., Any]:
    """The API answers in the format that is chosen for files; a layer is a PNG in any case."""

    def encode_with_alpha(image: Any) -> Any:
        if not isinstance(image, Image.Image) or not has_transparency(image):
            return encode(image)
        text = PngInfo()
        for key, value in image.info.items():
            if isinstance(key, str) and isinstance(value, str):
                text.add_text(key, value)
        content = io.BytesIO()
        image.save(content, format="PNG", pnginfo=text)
        return base64.b64encode(content.getvalue())

    return encode_with_alpha


def keeps_alpha(file_format: str) -> bool:
    """Whether the host writes alpha in this file format."""
    return file_format.lower() == "png"


def needs_file_of_its_own(p: Any) -> bool:
    """Whether the host saves the pictures of `p`, and in a format that loses alpha."""
    return not keeps_alpha(shared.opts.samples_format) and bool(p.save_samples())


def save_layer(p: Any, image: Image.Image, index: int) -> str | None:
    """Save a layer as PNG where the chosen format loses alpha; returns the file's path, None where nothing was saved.

    index: of the picture in its batch.
    """
    if not needs_file_of_its_own(p):
        return None
    text = processing.create_infotext(
        p, p.prompts, p.seeds, p.subseeds, index=index, all_negative_prompts=p.negative_prompts
    )
    path, _ = images.save_image(image, p.outpath_samples, "", p.seeds[index], p.prompts[index], "png", info=text, p=p)
    return path


def to_image(rgba: np.ndarray[Any, Any]) -> Image.Image:
    """uint8 [H, W, 3 or 4] -> Pillow image."""
    return Image.fromarray(np.ascontiguousarray(rgba))
