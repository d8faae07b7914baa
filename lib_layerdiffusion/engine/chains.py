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


@dataclass(frozen=True)
class Words:
    """What a chain is asked for. who: stands in front. scene: lies behind; where it is "" `who` is said everywhere.

    Raises:
        SettingsError: one of them is no text.
    """

    who: str
    scene: str = ""

    def __post_init__(self) -> None:
        _check_text(self.who)
        _check_text(self.scene)

    def of(self, layer: Layer) -> str:
        """The prompt of a layer: the blended picture shows both."""
        if layer is Layer.BLENDED:
            return ", ".join(filter(None, (self.who.strip(), self.scene.strip()))) if self.scene else self.who
        return self.scene if layer is Layer.BACKGROUND and self.scene else self.who

    def arguments(self, method: LayerMethod) -> dict[str, Any]:
        """`prompt` and `layer_prompts` for a step: one prompt where a method makes one layer, else one for each."""
        if not self.scene:
            return {"prompt": self.who}
        if method.frame_count == 1:
            return {"prompt": self.of(method.frames[0])}
        return {"prompt": "", "layer_prompts": {layer: self.of(layer) for layer in method.frames}}


def _check_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise SettingsError("A prompt must be text.")


TO_FOREGROUND = Chain(Layer.BACKGROUND, (("bg-to-blend", "bg-blend-to-fg"), ("bg-to-fg",)))
TO_BACKGROUND = Chain(Layer.FOREGROUND, (("fg-to-blend", "fg-blend-to-bg"), ("fg-to-bg",)))


def steps_of(methods: Iterable[LayerMethod], chain: Chain) -> tuple[LayerMethod, ...]:
    """The steps of a chain among the methods that a model can run.

    Raises:
        ModelError: it has none for it.
    """
    known = {row.name: row for row in methods}
    way = next((names for names in chain.ways if known.keys() >= set(names)), None)
    if way is None:
        raise ModelError("The loaded model has no methods for this chain: load a Stable Diffusion 1.5 or XL model.")
    return tuple(known[name] for name in way)


def run_chain(
    generate: Callable[..., Result],
    methods: Iterable[LayerMethod],
    chain: Chain,
    picture: object,
    words: Words,
    arguments: Mapping[str, Any],
) -> Result:
    """Run a chain; every picture of the result has all three layers, the given one as it was given.

    generate: `Engine.generate`, or what takes the same arguments. methods: that it can run. arguments: more of them.

    Raises:
        LayerDiffusionError: as `generate`, or the model has no methods for it.
    """
    steps = steps_of(methods, chain)
    if picture is None:
        raise SettingsError(f"This chain begins with a {chain.given} picture: give one.")
    source = load_picture(picture, chain.given.value)
    beginning: dict[str, Any] = {**arguments, chain.given.value: source}
    first = generate(method=steps[0], **{**beginning, **words.arguments(steps[0])})
    images, timings, settings = list(first.images), dict(first.timings), first.settings
    for method in steps[1:]:
        for index, image in enumerate(images):
            own: dict[str, Any] = {**beginning, "seed": image.seed, "batch": 1, "blended": image.blended}
            step = generate(method=method, **{**own, **words.arguments(method)})
            images[index] = step.images[0].with_layers(image.layers)
            timings = {stage: seconds + step.timings.get(stage, 0.0) for stage, seconds in timings.items()}
            settings = step.settings
    given = Image.fromarray(source)
    given = given if chain.given is Layer.FOREGROUND else given.convert("RGB")
    pictures = tuple(image.with_layers({chain.given: given}) for image in images)
    return Result(pictures, settings, pictures[0].seed, timings, first.source)
