"""Alpha in the grids that the host makes of its results, and something behind it where it writes texts around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from modules import images
from PIL import Image

from lib_layerdiffusion.hosts.forge import options, saving
from lib_layerdiffusion.hosts.forge.control import extend
from lib_layerdiffusion.images.arithmetic import over_background, to_float


def keep_alpha() -> None:
    """Let grids have alpha on every host, and texts stand around pictures that are laid on the previews' background."""
    for name, extended in {"image_grid": _with_alpha, "draw_grid_annotations": _on_background}.items():
        if hasattr(images, name):
            extend(images, name, extended)


def _with_alpha(lay_out: Callable[..., Any]) -> Callable[..., Any]:
    """Some hosts make their grids of three channels, so alpha is laid out beside colour."""

    def lay_out_with_alpha(pictures: Any, *args: Any, **named: Any) -> Any:
        pictures = list(pictures)
        grid = lay_out(pictures, *args, **named)
        if grid.mode == "RGBA" or not any(_is_clear_somewhere(picture) for picture in pictures):
            return grid
        alpha = lay_out([_alpha_of(picture) for picture in pictures], *args, **named)
        grid.putalpha(alpha.convert("L"))
        return grid

    return lay_out_with_alpha


def _on_background(annotate: Callable[..., Any]) -> Callable[..., Any]:
    def annotate_on_background(grid: Any, *args: Any, **named: Any) -> Any:
        if _is_clear_somewhere(grid):
            shown = over_background(to_float(np.asarray(grid)), options.preview_background())
            grid = saving.to_image(shown)
        return annotate(grid, *args, **named)

    return annotate_on_background


def _is_clear_somewhere(picture: Any) -> bool:
    return isinstance(picture, Image.Image) and saving.has_transparency(picture)


def _alpha_of(picture: Image.Image) -> Image.Image:
    """Alpha as a picture of three equal channels; what has none is solid."""
    band = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
    return Image.merge("RGB", [band] * 3)
