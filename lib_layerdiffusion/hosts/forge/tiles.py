"""The host's SD upscale with layers: tiles with alpha go through image-to-image and are joined as RGBA.

The script flattens its picture, cuts it up, has each tile painted and joins them, each with a function of the host's
module `images`. For the time of its run it sees that module with three of these functions replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib_layerdiffusion.hosts.forge import callers, control, options, saving, webui
from lib_layerdiffusion.hosts.forge.results import Shown, mark
from lib_layerdiffusion.images.arithmetic import over_background, to_float, to_uint8
from lib_layerdiffusion.images.follow import Placement, with_alpha_of
from lib_layerdiffusion.images.opacity import has_transparency
from lib_layerdiffusion.images.outputs import apart
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LayerSettings

SCRIPT_FILE = "sd_upscale.py"


def add_alpha(is_ours: Callable[[Any], bool]) -> None:
    """Let the host's SD upscale keep alpha. is_ours: tells this extension's script."""
    data = webui.script_data(SCRIPT_FILE)
    if data is not None:
        control.extend(data.script_class, "run", partial(_with_alpha, data.module, is_ours))


def _with_alpha(module: Any, is_ours: Callable[[Any], bool], own: Callable[..., Any]) -> Callable[..., Any]:
    def run(script: Any, p: Any, *arguments: Any) -> Any:
        settings = callers.settings_of(p, is_ours)
        if not settings.enabled or not settings.method.has_alpha:
            return own(script, p, *arguments)
        callers.check(p, settings.method)
        images = module.images
        module.images = TileImages(images)
        try:
            return _shown(own(script, p, *arguments), settings)
        finally:
            module.images = images

    return run


def _shown(processed: Any, settings: LayerSettings) -> Any:
    """The script's answer with previews behind the joined pictures."""
    for image in list(processed.images):
        mark(image, Shown(Layer.FOREGROUND, "layer", alpha=image.mode == "RGBA"))
        if settings.preview and image.mode == "RGBA":
            shown = over_background(to_float(np.asarray(image)), options.preview_background())
            processed.extra_images.append(saving.to_image(shown))
            mark(processed.extra_images[-1], Shown(Layer.FOREGROUND, "preview"))
    return processed


class TileImages:
    """The host's module `images`, whose tiles have alpha."""

    def __init__(self, own: Any) -> None:
        self._own = own
        self._whole: Picture | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def flatten(self, image: Image.Image, colour: str) -> Image.Image:
        """RGB for the upscaler, with colour continued under what is clear; the alpha is kept for the tiles."""
        whole = np.array(image.convert("RGBA"))
        self._whole = whole if has_transparency(whole) else None
        if self._whole is None:
            return self._own.flatten(image, colour)
        return saving.to_image(apart(whole)[0])

    def split_grid(self, image: Image.Image, *arguments: Any, **named: Any) -> Any:
        """The upscaled picture in tiles, which have its alpha."""
        if self._whole is not None:
            placement = Placement(image.width, image.height)
            image = saving.to_image(with_alpha_of(np.array(image.convert("RGB")), self._whole, placement))
        return self._own.split_grid(image, *arguments, **named)

    def combine_grid(self, grid: Any) -> Image.Image:
        """The painted tiles as one picture."""
        tiles = [tile for _, _, row in grid.tiles for _, _, tile in row]
        return join_tiles(grid) if any(tile.mode == "RGBA" for tile in tiles) else self._own.combine_grid(grid)


def join_tiles(grid: Any) -> Image.Image:
    """RGBA of a grid of tiles as the host lays them out, each fading into the next over the overlap, premultiplied.

    grid: has tiles, rows (top, height, [(left, width, tile), ...]), and image_w, image_h and overlap in pixels.
    """
    whole = np.zeros((grid.image_h, grid.image_w, 4), np.float32)
    for top, height, tiles in grid.tiles:
        row = np.zeros((height, grid.image_w, 4), np.float32)
        for left, width, tile in tiles:
            values = to_float(np.array(tile.convert("RGBA")))[:height, :width]
            values[..., :3] *= values[..., 3:]
            _lay(row.swapaxes(0, 1), values.swapaxes(0, 1), left, grid.overlap)
        _lay(whole, row, top, grid.overlap)
    whole[..., :3] /= np.maximum(whole[..., 3:], 1e-8)
    return saving.to_image(to_uint8(whole))


def _lay(below: NDArray[np.float32], part: NDArray[np.float32], start: int, overlap: int) -> None:
    """Lay `part` onto `below` from `start` on along the first axis; from the second on it fades in."""
    part = part[: below.shape[0] - start]
    if start == 0:
        below[: len(part)] = part
        return
    fading = min(overlap, len(part))
    share = (np.arange(fading, dtype=np.float32) / max(overlap, 1))[:, None, None]
    below[start : start + fading] += (part[:fading] - below[start : start + fading]) * share
    below[start + fading : start + len(part)] = part[fading:]
