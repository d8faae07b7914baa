"""What a run made: each picture's layer for the API's answer, and all layers of a picture as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_layerdiffusion.engine.layerset import layer_set
from lib_layerdiffusion.hosts.forge.earlier import EarlierResults
from lib_layerdiffusion.images.layerfile import save_layers
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LayerSettings

ANSWER_KEY = "LayerDiffusion pictures"
"""In `extra_generation_params` of the answer's info: a list with an object for each of our pictures."""


@dataclass(frozen=True)
class _Shown:
    image: Image.Image
    layer: Layer
    kind: str


class RunResults:
    """The pictures of one run."""

    def __init__(self, settings: LayerSettings) -> None:
        self._settings = settings
        self._shown: list[_Shown] = []
        self._sets: dict[tuple[int, int], dict[Layer, Image.Image]] = {}
        self._previews: list[Image.Image] = []
        self._origins: list[Image.Image] = []
        self._paths: list[tuple[Image.Image, str]] = []

    def add_layer(self, image: Image.Image, iteration: int, index: int) -> None:
        """Take note of the picture that stands at `index` of the batch `iteration`."""
        layer = self._settings.method.layer_of(index)
        self._shown.append(_Shown(image, layer, "layer"))
        self._sets.setdefault((iteration, index // self._settings.method.frame_count), {})[layer] = image

    def add_preview(self, image: Image.Image, index: int) -> None:
        """Take a layer over a background; previews come behind all pictures."""
        self._previews.append(image)
        self._shown.append(_Shown(image, self._settings.method.layer_of(index), "preview"))

    def add_origin(self, image: Image.Image, index: int) -> None:
        """Take the picture that stood at `index` before its alpha was decoded; these come last."""
        self._origins.append(image)
        self._shown.append(_Shown(image, self._settings.method.layer_of(index), "before decoding"))

    def saved_as(self, image: Image.Image, path: str | None) -> None:
        """Remember the PNG of a layer where the host itself saves in a format without alpha."""
        if path is not None:
            self._paths.append((image, path))

    def hand_over(self, processed: Any) -> None:
        """Put what comes behind the pictures into the host's answer, and tell it which files are there."""
        processed.extra_images.extend([*self._previews, *self._origins])
        for image, path in self._paths:
            image.already_saved_as = path

    def describe(self, processed: Any, earlier: EarlierResults) -> None:
        """Say in the host's answer what each picture is, and under which name a later request may use it."""
        own = {id(shown.image): shown for shown in self._shown}
        described: list[dict[str, object]] = []
        for index, image in enumerate([*processed.images, *processed.extra_images]):
            shown = own.get(id(image))
            if shown is None:
                continue
            entry: dict[str, object] = {"index": index, "layer": str(shown.layer), "kind": shown.kind}
            entry["alpha"] = image.mode == "RGBA"
            if shown.kind == "layer":
                entry["name"] = earlier.keep(image, shown.layer)
            described.append(entry)
        # A mapping of its own: the run's is what infotext is made of.
        processed.extra_generation_params = {**processed.extra_generation_params, ANSWER_KEY: described}

    def save_layers(self, ending: str) -> None:
        """Write each picture's layers as one file beside the first of its files that was saved.

        Raises:
            LayerDiffusionError: such files cannot be written here.
        """
        for images in self._sets.values():
            saved = next(filter(None, (getattr(image, "already_saved_as", None) for image in images.values())), None)
            if saved is not None:
                pictures = {layer: np.array(image.convert("RGBA")) for layer, image in images.items()}
                save_layers(Path(saved).with_suffix(ending), layer_set(pictures, self._settings))
