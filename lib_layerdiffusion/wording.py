"""What the panel says beside the names and descriptions of settings (`fields.FIELDS`) and methods (`METHODS`).

Translations (`localizations/`) go from these English texts; each stands alone in its element of the page, since the
host translates whole pieces of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lib_layerdiffusion.examples import EXAMPLES
from lib_layerdiffusion.fields import FIELDS
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod

TITLE = "LayerDiffusion"
EXAMPLE = "Example"
EXAMPLE_HELP = "Fills in a method and prompts to start from."
DECODING = "Transparency"
EDGES = "Edges"
NO_FAMILY = "none"
"""In place of a family where the loaded model has no methods at all."""
NO_METHODS = "No method is made for the loaded model: load an SD1.5 or SDXL checkpoint."


def outcome(method: LayerMethod) -> str:
    """What comes out of a method."""
    return f"Gives {method.outcome}."


def missing(layer: Layer) -> str:
    """Says that a picture has to be given."""
    return f"Still missing: a {layer} picture."


def wrong_model(loaded: Family) -> str:
    """Says that the chosen method is not made for the loaded model."""
    return f"This method is not made for {loaded} models like the loaded one: choose one of the first in the list."


def marked(method: LayerMethod) -> str:
    """The label of a method that is not made for the loaded model."""
    return f"{method.label} - not for the loaded model"


def use_as(layer: Layer) -> str:
    """The button under the results that takes the chosen one to the next step."""
    return f"Use as {layer}"


def use_as_help(layer: Layer) -> str:
    """What the button does."""
    return f"Puts the chosen result into LayerDiffusion as the {layer} picture and chooses the method that goes on."


def panel_texts() -> tuple[str, ...]:
    """Every English text of the panel and its buttons, once each."""
    texts = [TITLE, EXAMPLE, EXAMPLE_HELP, DECODING, EDGES, NO_METHODS, *map(wrong_model, Family)]
    texts += [example.name for example in EXAMPLES]
    for row in FIELDS[1:]:
        texts += [row.label, *([row.help] if row.attribute != "pictures" else [])]
        choices = cast("Sequence[object]", row.kind.schema.get("enum", ()))
        texts += [value for value in choices if isinstance(value, str)]
    for method in METHODS.values():
        texts += [marked(method), outcome(method)]
    for layer in Layer:
        texts += [missing(layer), use_as(layer), use_as_help(layer)]
    return tuple(dict.fromkeys(texts))
