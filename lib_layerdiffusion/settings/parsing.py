"""What the user asked for, parsed once and valid from then on.

Everything about single settings comes from the table `fields.FIELDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from lib_layerdiffusion.errors import InputError, ModelError, SettingsError
from lib_layerdiffusion.images.arithmetic import ResizeMode
from lib_layerdiffusion.images.opacity import has_transparency, opaque_input_note
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family, Layer, LayerMethod
from lib_layerdiffusion.settings.fields import DEFAULT_METHOD, FIELDS, LatentScale, by_own_names
from lib_layerdiffusion.settings.kinds import find_method

__all__ = ["DEFAULT_METHOD", "FIELDS", "LatentScale", "LayerSettings", "ResizeMode", "json_schema"]


def _no_pictures() -> Mapping[Layer, Picture | None]:
    return {}


def _no_prompts() -> Mapping[Layer, str]:
    return {}


@dataclass(frozen=True, eq=False)
class LayerSettings:
    """What the user asked for.

    weight: 0 to 2, scales the layer model. stop_at: 0 to 1, share of the schedule. pictures: uint8 RGBA [H, W, 4] for
    each layer. prompts: additional prompt for each layer. Values are read as from the API, also when a script makes the
    object itself; where `enabled` is false nothing is checked. edge_cleanup: 0 to 1, alpha_low: 0 to 0.45, alpha_high:
    0.55 to 1, as strength, black point and white point of `edges.clean_edges`.

    Raises:
        SettingsError: a value is unknown, out of range or of the wrong type.
        InputError: a picture cannot be used.
    """

    enabled: bool = False
    method: LayerMethod = DEFAULT_METHOD
    weight: float = 1.0
    stop_at: float = 1.0
    pictures: Mapping[Layer, Picture | None] = field(default_factory=_no_pictures, repr=False)
    resize_mode: ResizeMode = ResizeMode.CROP_AND_RESIZE
    output_origin: bool = False
    prompts: Mapping[Layer, str] = field(default_factory=_no_prompts)
    decode_passes: int = 8
    latent_scale: LatentScale = LatentScale.VAE
    preview: bool = True
    prompt_aid: bool = False
    edge_cleanup: float = 0.0
    alpha_low: float = 0.0
    alpha_high: float = 1.0
    trim: bool = False
    rgb_and_mask: bool = False

    def __post_init__(self) -> None:
        if not self.enabled:
            return
        values = {row.name: row.read(row.get(self)) for row in FIELDS}
        for attribute, value in _grouped(values).items():
            object.__setattr__(self, attribute, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerSettings):
            return NotImplemented
        return all(_same(row.get(self), row.get(other)) for row in FIELDS)

    def __getstate__(self) -> dict[str, object]:
        """Read-only mappings neither pickle nor copy, so they travel as plain ones."""
        return {
            name: dict(cast("Mapping[Layer, object]", value)) if isinstance(value, MappingProxyType) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: Mapping[str, object]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @classmethod
    def from_args(
        cls,
        args: Sequence[object],
        *,
        family: Family | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> LayerSettings:
        """Read positional arguments in the order of `FIELDS`; fewer than all are fine, None means the default.

        Where the first argument is a mapping it is read by names and the others are not looked at, since Forge's API
        fills up the positions that a request leaves out. family: of the loaded model, to tell short method names apart.
        defaults: by name, in place of the table's.

        Raises:
            SettingsError: a value is unknown, out of range or of the wrong type; the message names it.
            InputError: a picture cannot be used; the message names it.
        """
        if args and isinstance(args[0], Mapping):
            return cls.from_mapping(cast("Mapping[str, object]", args[0]), family=family, defaults=defaults)
        if not args or not FIELDS[0].read(args[0]):
            return cls()
        if len(args) > len(FIELDS):
            raise SettingsError(f"LayerDiffusion takes at most {len(FIELDS)} arguments, not {len(args)}.")
        given = {row.name: value for row, value in zip(FIELDS, args, strict=False)}
        return cls._from_raw(given, family, defaults)

    @classmethod
    def from_mapping(
        cls,
        values: Mapping[str, object],
        *,
        family: Family | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> LayerSettings:
        """Read settings by their names or by those of the reference extension.

        A mapping that says anything but not `enabled` is meant to be enabled. family, defaults: as in `from_args`.

        Raises:
            SettingsError: a name or a value is unknown, out of range or of the wrong type; the message names it.
            InputError: a picture cannot be used; the message names it.
        """
        switches = [values[key] for key in (*FIELDS[0].names, FIELDS[0].old_infotext) if key in values]
        wanted = FIELDS[0].read(switches[0]) if switches and switches[0] is not None else bool(values)
        if not wanted:
            return cls()
        return cls._from_raw({**by_own_names(values), "enabled": True}, family, defaults)

    @classmethod
    def _from_raw(
        cls, given: Mapping[str, object], family: Family | None, defaults: Mapping[str, object] | None
    ) -> LayerSettings:
        raw = {**(defaults or {}), **{name: value for name, value in given.items() if value is not None}}
        if isinstance(raw.get("method"), str) and str(raw["method"]).strip():
            raw["method"] = find_method(raw["method"], family)
        values = {row.name: row.read(raw.get(row.name)) for row in FIELDS}
        return cls(**cast("dict[str, Any]", _grouped(values)))

    def with_values(self, values: Mapping[str, object]) -> LayerSettings:
        """These settings with some of them read anew, by name.

        Raises:
            SettingsError: a name or a value is unknown, out of range or of the wrong type; the message names it.
            InputError: a picture cannot be used; the message names it.
        """
        known = {row.name: row.get(self) for row in FIELDS}
        return self._from_raw({**known, **by_own_names(values)}, self.method.family, None)

    def to_mapping(self) -> dict[str, object]:
        """All settings by name as plain JSON; pictures are PNG data URIs. `from_mapping` is its inverse."""
        values = ((row, row.get(self)) for row in FIELDS)
        return {row.name: None if value is None else row.kind.to_json(value) for row, value in values}

    @property
    def missing_pictures(self) -> tuple[Layer, ...]:
        """The condition pictures that the method needs and nobody has given, in the method's order."""
        return tuple(layer for layer in self.method.inputs if self.pictures.get(layer) is None)

    def condition_pictures(self) -> tuple[Picture, ...]:
        """The pictures that the method needs, uint8 RGBA [H, W, 4] each, in the order in which it takes them.

        Raises:
            InputError: one is missing; the message names it.
        """
        missing = self.missing_pictures
        if missing:
            wanted = " and ".join(f"a {layer} picture" for layer in missing)
            places = " and ".join(f'"{str(layer).capitalize()}"' for layer in missing)
            raise InputError(f'"{self.method.label}" needs {wanted}: put {_count(len(missing))} into {places}.')
        pictures = (self.pictures.get(layer) for layer in self.method.inputs)
        return tuple(picture for picture in pictures if picture is not None)

    def input_notes(self) -> tuple[str, ...]:
        """What is worth telling of the condition pictures: a foreground without any alpha."""
        given = ((layer, self.pictures.get(layer)) for layer in self.method.inputs if layer is Layer.FOREGROUND)
        return tuple(
            opaque_input_note(str(layer))
            for layer, picture in given
            if picture is not None and not has_transparency(picture)
        )

    def validate_for(self, family: Family) -> None:
        """Make sure that the method is made for models of `family`.

        Raises:
            ModelError: it is made for another family.
        """
        made_for = self.method.family
        if family is not made_for:
            raise ModelError(
                f'"{self.method.label}" is made for {made_for} models and the loaded one is {family}: '
                f"choose a method that begins with ({family}), or load an {made_for} checkpoint."
            )


def json_schema() -> dict[str, object]:
    """JSON schema (draft 2020-12) of the mapping that `LayerSettings.from_mapping` takes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "LayerDiffusion settings",
        "type": "object",
        "properties": {row.name: row.schema() for row in FIELDS},
        "additionalProperties": False,
    }


def _grouped(values: Mapping[str, object]) -> dict[str, object]:
    """Values by field name -> values by attribute of LayerSettings."""
    grouped: dict[str, object] = {row.attribute: values[row.name] for row in FIELDS if row.layer is None}
    for attribute in dict.fromkeys(row.attribute for row in FIELDS if row.layer is not None):
        rows = [row for row in FIELDS if row.attribute == attribute]
        grouped[attribute] = MappingProxyType({row.layer: values[row.name] for row in rows})
    return grouped


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or (not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and one == other)


def _count(number: int) -> str:
    return "one" if number == 1 else "one each"
