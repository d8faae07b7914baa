"""Examples that a new user can start from: the prompts with which the original extension is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod

_PLAIN = "bad, ugly"
_SAFE = "nsfw, bad, ugly"


@dataclass(frozen=True)
class Example:
    """name: in the menu. methods: short names; the first one that a family has is meant. prompts: of layers."""

    name: str
    methods: tuple[str, ...]
    prompt: str
    negative: str = _PLAIN
    prompts: Mapping[Layer, str] = field(default_factory=dict[Layer, str])

    def method_of(self, family: Family) -> LayerMethod | None:
        """The method of a family that makes this example, None if it has none."""
        rows = {row.name: row for row in METHODS.of_family(family)}
        return next((rows[name] for name in self.methods if name in rows), None)


def _layers(foreground: str, background: str, blended: str) -> dict[Layer, str]:
    return {Layer.FOREGROUND: foreground, Layer.BACKGROUND: background, Layer.BLENDED: blended}


EXAMPLES = (
    Example("Apple", ("transparent",), "an apple, high quality"),
    Example("Messy hair", ("transparent",), "woman, messy hair, high quality"),
    Example("Glass cup", ("transparent",), "a cup made of glass, high quality"),
    Example("Glowing book", ("transparent",), "glowing effect, book of magic, high quality"),
    Example("Man walking, all layers", ("everything",), "man walking, 4k, high quality"),
    Example(
        "Apple on the floor, all layers",
        ("everything",),
        "high quality, 4k",
        _SAFE,
        _layers("apple", "floor in room", "apple on floor in room"),
    ),
    Example(
        "Dog in a street, all layers",
        ("everything",),
        "high quality, 4k",
        _SAFE,
        _layers("dog running", "street", "dog running in street"),
    ),
    Example("Onto your bench", ("bg-to-blend", "bg-to-fg"), "old man sitting, high quality"),
    Example("Your cut-out in a street", ("fg-to-blend", "fg-to-bg"), "street, high quality, 4k", _SAFE),
    Example("Your dog in a room", ("fg-to-blend", "fg-to-bg"), "a dog sitting in room, high quality"),
    Example("The room behind your dog", ("fg-blend-to-bg",), "room, high quality"),
)


def examples_of(family: Family | None) -> list[Example]:
    """The examples that some method of a family makes; all of them where the family is not known."""
    return [example for example in EXAMPLES if family is None or example.method_of(family) is not None]
