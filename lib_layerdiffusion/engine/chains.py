"""Two steps in one call: background -> blended -> foreground, and foreground -> blended -> background."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.errors import ModelError, SettingsError
from lib_layerdiffusion.images.files import load_picture
from lib_layerdiffusion.methods import Layer, LayerMethod


@dataclass(frozen=True)
class Chain:
    """given: the picture it begins with. ways: method names in order, for the families' different methods."""

    given: Layer
    ways: tuple[tuple[str, ...], ...]


TO_FOREGROUND = Chain(Layer.BACKGROUND, (("bg-to-blend", "bg-blend-to-fg"), ("bg-to-fg",)))
TO_BACKGROUND = Chain(Layer.FOREGROUND, (("fg-to-blend", "fg-blend-to-bg"), ("fg-to-bg",)))


def run_chain(
    generate: Callable[..., Result],
    methods: Iterable[LayerMethod],
    chain: Chain,
    picture: object,
    prompt: str,
    arguments: Mapping[str, Any],
) -> Result:
    """Run a chain; every picture of the result has all three layers, the given one as it was given.

    generate: `Engine.generate`, or what takes the same arguments. methods: that it can run. arguments: more of them.

    Raises:
        LayerDiffusionError: as `generate`, or the model has no methods for it.
    """
    known = {row.name for row in methods}
    way = next((names for names in chain.ways if known.issuperset(names)), None)
    if way is None:
        raise ModelError("The loaded model has no methods for this chain: load a Stable Diffusion 1.5 or XL model.")
    if picture is None:
        raise SettingsError(f"This chain begins with a {chain.given} picture: give one.")
    source = load_picture(picture, chain.given.value)
    beginning: dict[str, Any] = {**arguments, chain.given.value: source}
    first = generate(prompt, method=way[0], **beginning)
    images, timings, settings = list(first.images), dict(first.timings), first.settings
    for name in way[1:]:
        for index, image in enumerate(images):
            own: dict[str, Any] = {**beginning, "seed": image.seed, "batch": 1, "blended": image.blended}
            step = generate(prompt, method=name, **own)
            images[index] = step.images[0].with_layers(image.layers)
            timings = {stage: seconds + step.timings.get(stage, 0.0) for stage, seconds in timings.items()}
            settings = step.settings
    given = Image.fromarray(source)
    given = given if chain.given is Layer.FOREGROUND else given.convert("RGB")
    pictures = tuple(image.with_layers({chain.given: given}) for image in images)
    return Result(pictures, settings, pictures[0].seed, timings, first.source)
