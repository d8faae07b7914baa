"""What a run gives back: every layer by its name, previews, seed, settings, timings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lib_layerdiffusion.engine.layerset import layer_set
from lib_layerdiffusion.errors import quoted
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.files import write_png
from lib_layerdiffusion.images.layerfile import layer_file_bytes, save_layers
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LayerSettings


@dataclass(frozen=True, repr=False)
class LayerPicture:
    """One picture in layers.

    layers: foregrounds are RGBA, the others RGB. previews: RGBA layers over a checkerboard, RGB. origins: RGBA layers
    as they were before their alpha was decoded, RGB, where asked for. colours, masks: RGBA layers apart, RGB with
    colour continued under what is clear and L, where asked for. whole: layers before they were trimmed, where they
    were. infotext: of the PNGs. notes: what is worth telling the user.
    """

    layers: Mapping[Layer, Image.Image]
    seed: int
    infotext: str = ""
    previews: Mapping[Layer, Image.Image] = field(default_factory=dict)
    origins: Mapping[Layer, Image.Image] = field(default_factory=dict)
    colours: Mapping[Layer, Image.Image] = field(default_factory=dict)
    masks: Mapping[Layer, Image.Image] = field(default_factory=dict)
    whole: Mapping[Layer, Image.Image] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        width, height = self.rgba.size
        return f"LayerPicture({', '.join(self.layers)}; {width}x{height}, seed {self.seed})"

    def _repr_png_(self) -> bytes:
        """The layers side by side, for notebooks."""
        return _png(_side_by_side([image.convert("RGBA") for image in self.layers.values()]))

    @property
    def rgba(self) -> Image.Image:
        """The transparent layer; where a method makes none, its only or blended layer as an opaque RGBA picture."""
        best = next((self.layers[layer] for layer in Layer if layer in self.layers), None)
        return (self.blended or next(iter(self.layers.values())) if best is None else best).convert("RGBA")

    @property
    def foreground(self) -> Image.Image | None:
        """The foreground, RGBA."""
        return self.layers.get(Layer.FOREGROUND)

    @property
    def background(self) -> Image.Image | None:
        """The background, RGB."""
        return self.layers.get(Layer.BACKGROUND)

    @property
    def blended(self) -> Image.Image | None:
        """The foreground in front of the background, RGB."""
        return self.layers.get(Layer.BLENDED)

    @property
    def preview(self) -> Image.Image | None:
        """The transparent layer over a checkerboard, RGB."""
        return next(iter(self.previews.values()), None)

    def with_layers(self, layers: Mapping[Layer, Image.Image]) -> LayerPicture:
        """This picture with more layers."""
        return replace(self, layers={**layers, **self.layers})

    def save(self, folder: Path | str, stem: str, *, previews: bool = False) -> dict[str, Path]:
        """Write every layer as PNG with its infotext: `<stem>.png`, or `<stem>-<layer>.png` where there are several.

        Returns what was written, by layer name ("foreground", "foreground-preview", ...).

        Raises:
            LayerDiffusionError: a file cannot be written.
        """
        pictures = {str(layer): image for layer, image in self.layers.items()}
        single = len(pictures) == 1
        pictures |= {f"{layer}-before-decoding": image for layer, image in self.origins.items()}
        pictures |= {f"{layer}-rgb": image for layer, image in self.colours.items()}
        pictures |= {f"{layer}-mask": image for layer, image in self.masks.items()}
        if previews:
            pictures |= {f"{layer}-preview": image for layer, image in self.previews.items()}
        written: dict[str, Path] = {}
        for name, image in pictures.items():
            ending = name if not single else name.partition("-")[2]
            written[name] = Path(folder) / (f"{stem}-{ending}.png" if ending else f"{stem}.png")
            write_png(written[name], image, self.infotext)
        return written


@dataclass(frozen=True, repr=False)
class Result:
    """Everything that one call made.

    timings: seconds by stage. source: the model, in words.
    """

    images: tuple[LayerPicture, ...]
    settings: LayerSettings
    seed: int
    timings: Mapping[str, float]
    source: str = ""

    def __repr__(self) -> str:
        seconds = sum(self.timings.values())
        return f"Result({quoted(self.settings.method.label)}, {list(self.images)}, {seconds:.1f} s)"

    def _repr_png_(self) -> bytes:
        """The pictures' transparent layers side by side, or all layers where there is one picture; for notebooks."""
        if len(self.images) == 1:
            return _png(_side_by_side([image.convert("RGBA") for image in self.images[0].layers.values()]))
        return _png(_side_by_side([image.rgba for image in self.images]))

    def layer_set(self, index: int = 0) -> tuple[compose.Layer, ...]:
        """Picture `index` as layers for an editor, lowest first; what the method was given completes them."""
        image = self.images[index]
        layers = {layer: np.array(one.convert("RGBA")) for layer, one in {**image.layers, **image.whole}.items()}
        return layer_set(layers, self.settings)

    def layer_file(self, ending: str, index: int = 0) -> bytes:
        """The content of a file with the layers of picture `index`; ending: .ora or .psd.

        Raises:
            LayerDiffusionError: the ending is another one, or psd-tools is missing.
        """
        return layer_file_bytes(ending, self.layer_set(index), self._canvas(index))

    def _canvas(self, index: int) -> tuple[int, int]:
        """Height and width of picture `index` before trimming."""
        image = self.images[index]
        pictures = {**image.layers, **image.whole}
        made = next(pictures[layer] for layer in self.settings.method.frames if layer in pictures)
        return made.height, made.width

    def save_layers(self, path: Path | str, index: int = 0) -> None:
        """Write the layers of picture `index` as one file; the path's ending, .ora or .psd, says which kind.

        Raises:
            LayerDiffusionError: the ending is another one, psd-tools is missing, or the file cannot be written.
        """
        save_layers(Path(path), self.layer_set(index), self._canvas(index))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth telling the user, each once."""
        return tuple(dict.fromkeys(note for image in self.images for note in image.notes))


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """RGBA pictures in a row."""
    sheet = Image.new("RGBA", (sum(image.width for image in images), max(image.height for image in images)))
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
