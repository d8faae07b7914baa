"""What a run made: each picture's layer for the API's answer, and all layers of a picture as one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_layerdiffusion.engine.layerset import layer_set
from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.hosts.forge.callers import Use
from lib_layerdiffusion.hosts.forge.earlier import EarlierResults
from lib_layerdiffusion.images.layerfile import save_layers
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LayerSettings

ANSWER_KEY = "LayerDiffusion pictures"
"""In `extra_generation_params` of the answer's info: a list with an object for each of our pictures."""
NOTICES_KEY = "LayerDiffusion notices"
"""There too: what the page shows below the pictures, a list of sentences."""
_MARK = "layerdiffusion_shown"
REPLACED = (
    "LayerDiffusion: another extension put other pictures in the place of {count} of its own: switch that extension "
    "off if alpha is missing."
)


@dataclass(frozen=True)
class Shown:
    """What a picture of the answer is; it hangs on the picture itself, since scripts rearrange answers.

    layer: None where the picture shows several. kind: "layer", "preview", "before decoding", "frames" or another output
    of a layer. alpha: whether it was decoded to RGBA. name: under which a later request may use it.
    """

    layer: Layer | None
    kind: str
    alpha: bool = False
    name: str = ""

    def to_mapping(self, index: int) -> dict[str, object]:
        """As the answer has it. index: of the picture in the answer."""
        entry: dict[str, object] = {"index": index, "kind": self.kind, "alpha": self.alpha}
        if self.layer is not None:
            entry["layer"] = str(self.layer)
        return {**entry, "name": self.name} if self.name else entry


def mark(image: Image.Image, shown: Shown) -> None:
    """Write on a picture what it is."""
    vars(image)[_MARK] = shown


def shown_on(image: object) -> Shown | None:
    """What is written on a picture, None where it is not ours."""
    found = getattr(image, _MARK, None)
    return found if isinstance(found, Shown) else None


def described(pictures: Iterable[object]) -> list[dict[str, object]]:
    """Our pictures among those of an answer, each with its index."""
    return [shown.to_mapping(index) for index, image in enumerate(pictures) if (shown := shown_on(image)) is not None]


def describing(answer: Callable[..., str]) -> Callable[..., str]:
    """The host's function that writes an answer's info, with our pictures in it.

    The description is made when the answer is written: by then scripts have put their grids in front.
    """

    def describe(processed: Any) -> str:
        pictures = described([*processed.images, *getattr(processed, "extra_images", ())])
        if not pictures:
            return answer(processed)
        own = processed.extra_generation_params
        try:
            # A mapping of its own: the run's is what infotext is made of.
            processed.extra_generation_params = {**own, ANSWER_KEY: pictures}
            return answer(processed)
        finally:
            processed.extra_generation_params = own

    return describe


def say(processed: Any, *notices: str) -> None:
    """Add sentences to the host's answer: below the pictures on the page, and in the API's info."""
    own: Mapping[str, object] = processed.extra_generation_params
    said = own.get(NOTICES_KEY)
    # A mapping of its own: the run's is what infotext is made of.
    processed.extra_generation_params = {**own, NOTICES_KEY: [*(said if isinstance(said, list) else []), *notices]}
    processed.comments = "".join([processed.comments, *(f"{notice}\n" for notice in notices)])


class RunResults:
    """The pictures of one run."""

    def __init__(self, settings: LayerSettings) -> None:
        self._settings = settings
        self._sets: dict[tuple[int, int], dict[Layer, Image.Image]] = {}
        self._whole: dict[tuple[int, int], dict[Layer, Image.Image]] = {}
        self._extra: dict[str, list[Image.Image]] = {}
        self.notices: list[str] = []

    def add_layer(self, image: Image.Image, iteration: int, index: int, whole: Image.Image) -> None:
        """Take note of the picture that stands at `index` of the batch `iteration`; `whole` is untrimmed."""
        layer = self._settings.method.layer_of(index)
        mark(image, Shown(layer, "layer", alpha=self._settings.method.is_rgba(index)))
        key = (iteration, index // self._settings.method.frame_count)
        self._sets.setdefault(key, {})[layer] = image
        self._whole.setdefault(key, {})[layer] = whole

    def add_extra(self, kind: str, image: Image.Image, index: int) -> None:
        """Take a picture that comes behind all layers, kind by kind in the order in which kinds were first seen."""
        mark(image, Shown(self._settings.method.layer_of(index), kind))
        self._extra.setdefault(kind, []).append(image)

    def hand_over(self, processed: Any, earlier: EarlierResults, use: Use) -> None:
        """Put what comes behind the pictures into the host's answer, and give each layer its name there."""
        for images in self._sets.values():
            for image in images.values():
                own = shown_on(image)
                if own is not None:
                    mark(image, replace(own, name=earlier.keep(image, own.layer or Layer.BLENDED)))
        self._tell_of_replaced(processed)
        if self._settings.method.frame_count > 1:
            _LAYOUTS.get(use, lambda *_: None)(processed, list(self._sets.values()))
        extra = [image for images in self._extra.values() for image in images]
        # A script that lays pictures out counts them.
        if webui.answers_with_extra_images() or use is not Use.ALL:
            processed.extra_images.extend(extra)
        else:
            processed.images.extend(extra)
            processed.infotexts.extend(processed.infotexts[:1] * len(extra))
        if self.notices:
            own_params: Mapping[str, object] = processed.extra_generation_params
            processed.extra_generation_params = {**own_params, NOTICES_KEY: list(self.notices)}

    def _tell_of_replaced(self, processed: Any) -> None:
        there = {id(image) for image in processed.images}
        gone = sum(id(image) not in there for images in self._sets.values() for image in images.values())
        if gone:
            sentence = REPLACED.format(count=gone)
            self.notices.append(sentence)
            processed.comments = f"{processed.comments}{sentence}\n"

    def save_layers(self, ending: str) -> None:
        """Write each picture's layers as one file beside the first of its files that was saved.

        Raises:
            LayerDiffusionError: such files cannot be written here.
        """
        for key, images in self._sets.items():
            saved = next(filter(None, (getattr(image, "already_saved_as", None) for image in images.values())), None)
            if saved is not None:
                pictures = {layer: np.array(image.convert("RGBA")) for layer, image in self._whole[key].items()}
                size = next(iter(pictures.values())).shape[:2]
                save_layers(Path(saved).with_suffix(ending), layer_set(pictures, self._settings), size)


def side_by_side(sets: Iterable[Mapping[Layer, Image.Image]]) -> Image.Image:
    """The frames of each picture beside each other, pictures below each other; with alpha if a frame has it."""
    rows = [list(images.values()) for images in sets]
    every = [image for row in rows for image in row]
    width, height = max(image.width for image in every), max(image.height for image in every)
    mode = "RGBA" if any(image.mode == "RGBA" for image in every) else "RGB"
    whole = Image.new(mode, (width * max(map(len, rows)), height * len(rows)))
    for top, row in enumerate(rows):
        for left, image in enumerate(row):
            whole.paste(image.convert(mode), (left * width, top * height))
    mark(whole, Shown(None, "frames", alpha=mode == "RGBA"))
    return whole


def _one_for_each(processed: Any, sets: list[Mapping[Layer, Image.Image]]) -> None:
    """A picture of its frames in the place of each picture's frames, which go behind."""
    own = {id(image): number for number, images in enumerate(sets) for image in images.values()}
    first: dict[int, int] = {}
    for index, image in enumerate(processed.images):
        if id(image) in own:
            first.setdefault(own[id(image)], index)
    frames = [image for image in processed.images if id(image) in own]
    others = [(image, text) for image, text in _with_texts(processed) if id(image) not in own]
    made = [(side_by_side([sets[number]]), processed.infotexts[index]) for number, index in first.items()]
    _set_pictures(processed, [*others, *made], frames)


def _one_for_all(processed: Any, sets: list[Mapping[Layer, Image.Image]]) -> None:
    """A picture of all frames in front."""
    if sets:
        own = {id(image) for images in sets for image in images.values()}
        frames = [image for image in processed.images if id(image) in own]
        _set_pictures(processed, [(side_by_side(sets), processed.infotexts[0])], frames)


def _with_texts(processed: Any) -> list[tuple[Image.Image, str]]:
    texts = [*processed.infotexts, *[""] * len(processed.images)]
    return list(zip(processed.images, texts, strict=False))


def _set_pictures(processed: Any, shown: list[tuple[Image.Image, str]], behind: list[Image.Image]) -> None:
    processed.images = [image for image, _ in shown]
    processed.infotexts = [text for _, text in shown]
    processed.extra_images.extend(behind)


_LAYOUTS: Mapping[Use, Callable[[Any, list[Mapping[Layer, Image.Image]]], None]] = {
    Use.EACH: _one_for_each,
    Use.ONE: _one_for_all,
}
