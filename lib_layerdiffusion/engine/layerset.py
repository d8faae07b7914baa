"""The pictures of a generation as layers on top of each other, the way an editor opens them."""

from __future__ import annotations

from collections.abc import Mapping

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.arithmetic import fitted
from lib_layerdiffusion.images.outputs import trimmed
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LayerSettings

PAINTING_ORDER = (Layer.BACKGROUND, Layer.BLENDED, Layer.FOREGROUND)


def layer_set(pictures: Mapping[Layer, Picture], settings: LayerSettings) -> tuple[compose.Layer, ...]:
    """Layers of one size, lowest first, named by what they show.

    pictures: uint8 RGBA [H, W, 4], what a run of `settings` made and what it was given beside the settings' condition
    pictures. Condition pictures complete the set, in the size and place in which the model saw them. The blended
    picture is hidden where foreground and background are there to show the same. With `settings.trim` a layer with
    alpha is cut to its content and keeps its place.

    Raises:
        InputError: none of the pictures is one that the method makes.
    """
    made = next((pictures[layer] for layer in settings.method.frames if layer in pictures), None)
    if made is None:
        raise InputError("There are no layers to save: generate a picture first.")
    given = {layer: settings.pictures.get(layer) for layer in settings.method.inputs}
    together = {layer: picture for layer, picture in {**given, **pictures}.items() if picture is not None}
    complete = {Layer.BACKGROUND, Layer.FOREGROUND} <= together.keys()
    return tuple(
        _placed(
            str(layer),
            fitted(together[layer], settings.resize_mode, *made.shape[:2]),
            visible=not (complete and layer is Layer.BLENDED),
            trim=settings.trim,
        )
        for layer in PAINTING_ORDER
        if layer in together
    )


def _placed(name: str, picture: Picture, *, visible: bool, trim: bool) -> compose.Layer:
    if not trim:
        return compose.Layer(name, picture, visible=visible)
    content, left, top = trimmed(picture)
    return compose.Layer(name, content, left, top, visible)
