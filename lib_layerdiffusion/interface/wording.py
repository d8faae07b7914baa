"""What the panel says beside the names and descriptions of settings (`fields.FIELDS`) and methods (`METHODS`).

Translations (`localizations/`) go from these English texts; each stands alone in its element of the page, since the
host translates whole pieces of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

from lib_layerdiffusion.images.arithmetic import PREVIEW_BACKGROUNDS
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod
from lib_layerdiffusion.settings.examples import EXAMPLES
from lib_layerdiffusion.settings.fields import FIELDS, START_VALUES, SettingField

TITLE = "LayerDiffusion"
EXAMPLE = "Example"
EXAMPLE_HELP = "Fills in a method and prompts to start from."
DECODING = "Transparency"
EDGES = "Edges"
NO_FAMILY = "none"
"""In place of a family where the loaded model has no methods at all."""
NO_LAYER_FILE = "no layered file"
"""On the settings page, beside the kinds of layered files."""
EXTRAS_OURS = "pictures made with LayerDiffusion"
EXTRAS_EVERY = "every picture with alpha"
EXTRAS_NEVER = "no picture"
EXTRAS = (EXTRAS_OURS, EXTRAS_EVERY, EXTRAS_NEVER)
"""There too: what keeps its alpha in the Extras tab; the first is the default."""
SETTINGS_PAGE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "preview_background": ("Background of previews", ""),
        "layer_file": (
            "Also save all layers of a picture as one file",
            "beside its PNGs, for Krita, GIMP and Photoshop; .psd needs psd-tools",
        ),
        "extras_alpha": (
            "Keep alpha in the Extras tab",
            "colour goes through the upscalers and scripts, alpha is brought along",
        ),
        "memory_limit": ("Memory for decoding transparency, in GiB", "0: half of what is free"),
        "compiled": (
            "Compile the transparency decoder",
            "for many pictures of a size: the first waits a minute or two, once; needs a C++ compiler or triton",
        ),
        "models_dir": (
            "Folder of the weight files",
            "empty: layer_model in the models folder; --layerdiffusion-models-dir goes before it",
        ),
        "mirror": (
            "Address of a mirror to fetch weight files from",
            "empty: the environment variable HF_ENDPOINT, or the publisher's site",
        ),
    }
)
"""Label and explanation of what stands on a host's settings page and is no setting of a run."""
NO_METHODS = "No method is made for the loaded model: load an SD1.5 or SDXL checkpoint."


CARD_PLAIN = "A transparent picture"
CARD_ALL = "All layers at once"
CARDS: Mapping[tuple[Layer, ...], str] = MappingProxyType(
    {
        (Layer.BACKGROUND,): "Put something on my background",
        (Layer.BACKGROUND, Layer.BLENDED): "Take it off again",
        (Layer.FOREGROUND,): "Put my cut-out into a scene",
        (Layer.FOREGROUND, Layer.BLENDED): "Show what is behind it",
    }
)
"""What one gets by a method that needs these pictures."""


def outcome(method: LayerMethod) -> str:
    """What comes out of a method."""
    return f"Gives {method.outcome}."


def card(method: LayerMethod) -> str:
    """What one gets by a method, in words for people who have never heard of methods."""
    if not method.inputs:
        return CARD_ALL if method.frame_count > 1 else CARD_PLAIN
    return CARDS[method.inputs]


def missing(layer: Layer) -> str:
    """Says that a picture has to be given."""
    return f"Still missing: a {layer} picture."


def wrong_model(loaded: Family) -> str:
    """Says that the chosen method is not made for the loaded model."""
    return f"This method is not made for {loaded} models like the loaded one: choose one of the first in the list."


def marked(method: LayerMethod) -> str:
    """The label of a method that is not made for the loaded model."""
    return f"{method.label} - not for this model"


def use_as(layer: Layer) -> str:
    """The button under the results that takes the chosen one to the next step."""
    return f"Use as {layer}"


def use_as_help(layer: Layer) -> str:
    """What the button does."""
    return f"Puts the chosen result into LayerDiffusion as the {layer} picture and chooses the method that goes on."


def start_value(row: SettingField) -> str:
    """What a host's settings page calls the value with which a new form starts."""
    return f"{row.label}, in a new form"


def panel_texts() -> tuple[str, ...]:
    """Every English text of the panel and its buttons, once each."""
    texts = [TITLE, EXAMPLE, EXAMPLE_HELP, DECODING, EDGES, NO_METHODS, *map(wrong_model, Family)]
    texts += [example.name for example in EXAMPLES]
    for row in FIELDS[1:]:
        texts += [row.label, *([row.help] if row.attribute != "pictures" and row.name != "method" else [])]
        choices = cast("Sequence[object]", row.kind.schema.get("enum", ()))
        texts += [value for value in choices if isinstance(value, str)]
    for method in METHODS.values():
        texts += [marked(method), outcome(method)]
    for layer in Layer:
        texts += [missing(layer), use_as(layer), use_as_help(layer)]
    return tuple(dict.fromkeys(texts))


def every_text() -> tuple[str, ...]:
    """Every English text of the panel, its buttons, the page's cards, and a host's settings page.

    There explanations stand in brackets.
    """
    texts = [*panel_texts(), *PREVIEW_BACKGROUNDS, NO_LAYER_FILE, *EXTRAS]
    texts += [CARD_PLAIN, CARD_ALL, *CARDS.values()]
    for row in FIELDS:
        if row.name in START_VALUES:
            texts += [start_value(row), in_brackets(row.help)]
    for label, explanation in SETTINGS_PAGE.values():
        texts += [label, *([in_brackets(explanation)] if explanation else [])]
    return tuple(dict.fromkeys(texts))


def in_brackets(text: str) -> str:
    """A text as the host's settings page writes it behind a label."""
    return f"({text})"
