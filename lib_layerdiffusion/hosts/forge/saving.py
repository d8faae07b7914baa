"""Alpha on disk: Forge's stealth infotext overwrites it, and its JPEG saver drops it."""

from __future__ import annotations

from typing import Any

import numpy as np
from modules import images, processing, shared, stealth_infotext
from PIL import Image

_MARK = "keeps_layerdiffusion_alpha"
OPAQUE = (255, 255)


def has_transparency(image: Image.Image) -> bool:
    """Whether any pixel of the picture is not opaque."""
    return image.mode == "RGBA" and image.getextrema()[3] != OPAQUE


def keep_alpha() -> None:
    """Let the host's stealth infotext pass over pictures with transparency, whose infotext stands in a text chunk.

    It writes into the alpha channel of every PNG after setting it to opaque. Every saver goes through it, the gallery's
    button included, so an option set for the time of a run would not be enough.
    """
    write = stealth_infotext.add_stealth_pnginfo
    if getattr(write, _MARK, False):
        return

    def write_unless_transparent(params: Any) -> None:
        if not has_transparency(params.image):
            write(params)

    setattr(write_unless_transparent, _MARK, True)
    stealth_infotext.add_stealth_pnginfo = write_unless_transparent


def keeps_alpha(file_format: str) -> bool:
    """Whether the host writes alpha in this file format."""
    return file_format.lower() == "png"


def save_layer(p: Any, image: Image.Image, index: int) -> str | None:
    """Save a layer as PNG where the chosen format loses alpha; returns the file's path, None where nothing was saved.

    index: of the picture in its batch.
    """
    if keeps_alpha(shared.opts.samples_format) or not p.save_samples():
        return None
    text = processing.create_infotext(
        p, p.prompts, p.seeds, p.subseeds, index=index, all_negative_prompts=p.negative_prompts
    )
    path, _ = images.save_image(image, p.outpath_samples, "", p.seeds[index], p.prompts[index], "png", info=text, p=p)
    return path


def to_image(rgba: np.ndarray[Any, Any]) -> Image.Image:
    """uint8 [H, W, 3 or 4] -> Pillow image."""
    return Image.fromarray(np.ascontiguousarray(rgba))
