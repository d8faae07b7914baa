"""The one table of settings: positional arguments, API names, infotext and the JSON schema derive from it.

The first twelve rows of `FIELDS` stand in the order in which the reference extension takes its arguments; new rows go
to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from typing import cast

from lib_layerdiffusion.errors import SettingsError, quoted
from lib_layerdiffusion.images.arithmetic import ResizeMode
from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.kinds import Kind


class LatentScale(str, Enum):
    """Which latent the transparency decoder reads."""

    VAE = "VAE latent"
    """The latent that the VAE decodes, as in the paper (arXiv 2402.17113, section 3.1)."""
    SAMPLER = "sampler latent (2024-08 release)"
    """The sampler's latent beside pixels rounded to 8 bits: reproduces pictures of the extension's 2024-08 release."""

    __str__ = str.__str__

    @property
    def reproduces(self) -> bool:
        """Whether pictures are to be another program's, so that nothing is computed less exactly for speed."""
        return self is LatentScale.SAMPLER


@dataclass(frozen=True)
class SettingField:
    """One setting, by all its names.

    name: in the API and in Python mappings. label: on the page and in errors. infotext: the key that is written.
    old_name: the API and infotext name ("layerdiffusion_" before it) of the reference extension, "" where it has none.
    attribute: of LayerSettings; where `layer` is given the attribute is a mapping with one value for each layer.
    """

    name: str
    label: str
    infotext: str
    kind: Kind
    default: object = None
    old_name: str = ""
    attribute: str = ""
    layer: Layer | None = None
    help: str = ""
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribute", self.attribute or self.name)
        object.__setattr__(self, "names", tuple(dict.fromkeys(filter(None, (self.name, self.old_name)))))

    @property
    def old_infotext(self) -> str:
        """Infotext key of the reference extension, "" where it has none."""
        return f"layerdiffusion_{self.old_name}" if self.old_name else ""

    def read(self, raw: object) -> object:
        """The value that `raw` means; None and blank text mean the default.

        Raises:
            SettingsError: it is no valid value; the message says which are.
            InputError: it is a picture that cannot be used.
        """
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return self.default
        return self.kind.read(self.label, raw)

    def get(self, settings: object) -> object:
        """The value of this setting in a LayerSettings."""
        value = getattr(settings, self.attribute)
        return value if self.layer is None else cast("Mapping[Layer, object]", value).get(self.layer, self.default)

    def schema(self) -> dict[str, object]:
        """JSON schema of this setting as a property."""
        described: dict[str, object] = {"title": self.label, "description": self.help, **self.kind.schema}
        described["default"] = None if self.default is None else self.kind.to_json(self.default)
        return described


PASS_COUNTS = (8, 4, 2, 1)
"""Valid numbers of decoding passes; the median of eight is what the published decoders are made for."""

HIGHEST_BLACK_POINT, LOWEST_WHITE_POINT = 0.45, 0.55
"""Limits of the alpha levels, so that the black point is always the lower one."""

DEFAULT_METHOD = METHODS["(SDXL) Only Generate Transparent Image (Attention Injection)"]


def _picture(layer: Layer, old_name: str) -> SettingField:
    label = f"{str(layer).capitalize()} picture"
    help_text = "Base64 (data URI or bare), rows of pixels, or nothing."
    return SettingField(
        layer.value,
        label,
        f"LayerDiffusion {layer}",
        kinds.picture(layer),
        None,
        old_name,
        "pictures",
        layer,
        help_text,
    )


def _prompt(layer: Layer, old_name: str) -> SettingField:
    name, key = f"{layer.value}_prompt", f"LayerDiffusion {layer} prompt"
    help_text = f"Goes before the main prompt of the {layer} picture."
    return SettingField(
        name, f"{str(layer).capitalize()} prompt", key, kinds.text(), "", old_name, "prompts", layer, help_text
    )


FIELDS: tuple[SettingField, ...] = (
    SettingField(
        "enabled",
        "Enabled",
        "LayerDiffusion",
        kinds.boolean(),
        default=False,
        old_name="enabled",
        help="An object that says anything else is meant to be enabled.",
    ),
    SettingField(
        "method",
        "Method",
        "LayerDiffusion method",
        kinds.method(),
        DEFAULT_METHOD,
        "method",
        help="What is given and what comes out; each model family has methods of its own.",
    ),
    SettingField(
        "weight",
        "Weight",
        "LayerDiffusion weight",
        kinds.number(0, 2),
        1.0,
        "weight",
        help="Strength of the layer model; 0 leaves the picture plain.",
    ),
    SettingField(
        "stop_at",
        "Stop At",
        "LayerDiffusion stop at",
        kinds.number(0, 1),
        1.0,
        "ending_step",
        help="Share of the steps after which the untouched model finishes the picture.",
    ),
    _picture(Layer.FOREGROUND, "fg_image"),
    _picture(Layer.BACKGROUND, "bg_image"),
    _picture(Layer.BLENDED, "blend_image"),
    SettingField(
        "resize_mode",
        "Resize Mode",
        "LayerDiffusion resize mode",
        kinds.choice(ResizeMode),
        ResizeMode.CROP_AND_RESIZE,
        "resize_mode",
        help="How the pictures above are brought to the size of the result.",
    ),
    SettingField(
        "output_origin",
        "Picture before decoding",
        "LayerDiffusion picture before decoding",
        kinds.boolean(),
        default=False,
        old_name="output_origin",
        help="Also give the picture as it was before its alpha was decoded.",
    ),
    _prompt(Layer.FOREGROUND, "fg_additional_prompt"),
    _prompt(Layer.BACKGROUND, "bg_additional_prompt"),
    _prompt(Layer.BLENDED, "blend_additional_prompt"),
    SettingField(
        "decode_passes",
        "Decode passes",
        "LayerDiffusion decode passes",
        kinds.one_of(*PASS_COUNTS),
        8,
        help="Fewer are faster and a little rougher at the edges.",
    ),
    SettingField(
        "latent_scale",
        "Latent scale",
        "LayerDiffusion latent scale",
        kinds.choice(LatentScale),
        LatentScale.VAE,
        help="The second one reproduces pictures of the 2024-08 release.",
    ),
    SettingField(
        "preview",
        "Preview",
        "LayerDiffusion preview",
        kinds.boolean(),
        default=True,
        help="Also give each transparent picture over a checkerboard.",
    ),
    SettingField(
        "prompt_aid",
        "Plain background words",
        "LayerDiffusion plain background",
        kinds.boolean(),
        default=False,
        help="Asks for a plain grey background where alpha is wanted, for models that paint solid ones.",
    ),
    SettingField(
        "edge_cleanup",
        "Edge clean-up",
        "LayerDiffusion edge clean-up",
        kinds.number(0, 1),
        0.0,
        help="Pulls the colour of soft edges toward that of the solid parts, against halos; 0 is off.",
    ),
    SettingField(
        "alpha_low",
        "Alpha to clear",
        "LayerDiffusion alpha to clear",
        kinds.number(0, HIGHEST_BLACK_POINT),
        0.0,
        help="Alpha up to this value becomes fully transparent, against haze.",
    ),
    SettingField(
        "alpha_high",
        "Alpha to fill",
        "LayerDiffusion alpha to fill",
        kinds.number(LOWEST_WHITE_POINT, 1),
        1.0,
        help="Alpha from this value on becomes fully solid, against faint holes.",
    ),
    SettingField(
        "trim",
        "Trim to content",
        "LayerDiffusion trim",
        kinds.boolean(),
        default=False,
        help="Cuts off what is clear around a picture with alpha; layered files keep its place.",
    ),
    SettingField(
        "rgb_and_mask",
        "Colour and mask apart",
        "LayerDiffusion colour and mask",
        kinds.boolean(),
        default=False,
        help="Also give colour that goes on under what is clear, and alpha as a grey picture.",
    ),
)

START_VALUES = (
    "preview",
    "decode_passes",
    "latent_scale",
    "edge_cleanup",
    "alpha_low",
    "alpha_high",
    "trim",
    "rgb_and_mask",
)
"""Settings of a run that a host's settings page may give another default."""

_BY_NAME = {name: row for row in FIELDS for name in row.names}
_BY_NAME.update({row.old_infotext: row for row in FIELDS if row.old_infotext})


def by_own_names(values: Mapping[str, object]) -> dict[str, object]:
    """`values` with every name, of this or the reference extension, turned into the one of `FIELDS`.

    Raises:
        SettingsError: a name is unknown, or one setting is given twice.
    """
    named: dict[str, object] = {}
    for key, value in values.items():
        row = _BY_NAME.get(key)
        if row is None:
            raise SettingsError(_unknown_name(key))
        if row.name in named:
            raise SettingsError(f'"{row.name}" is given twice, once as "{key}": leave one of them out.')
        named[row.name] = value
    return named


def _unknown_name(key: str) -> str:
    close = get_close_matches(str(key), list(_BY_NAME), n=1)
    hint = (
        f'use "{close[0]}" or another of those in the schema.'
        if close
        else f"use {', '.join(row.name for row in FIELDS)}."
    )
    return f"There is no setting {quoted(key)}: {hint}"
