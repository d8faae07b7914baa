"""The types of value that a setting can have: how each is read, written and described.

Reading is idempotent: what it gave reads as itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from lib_layerdiffusion.errors import SettingsError, is_writable
from lib_layerdiffusion.images.reading import encode_picture, picture_hash, read_picture
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod

_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})
_WHOLE = re.compile(r"\s*[+-]?\d{1,40}(\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?\d{1,40}(\.\d{1,40})?\s*", re.ASCII)
_LONG_NUMBER = 10**40


@dataclass(frozen=True)
class Kind:
    """A type of value.

    read: (label for errors, raw value, which is neither None nor "") -> value.
    to_json: value -> what the API answers with. to_text: value -> infotext. schema: JSON schema of one value.
    """

    read: Callable[[str, object], object]
    schema: Mapping[str, object]
    to_json: Callable[[Any], object] = lambda value: value
    to_text: Callable[[Any], str] = str


def _plain(raw: object) -> object:
    """NumPy's numbers as Python's own."""
    return raw.item() if isinstance(raw, np.bool_ | np.integer | np.floating) else raw


def _shown(raw: object) -> str:
    raw = _plain(raw)
    if isinstance(raw, int) and abs(raw) >= _LONG_NUMBER:  # Python refuses to write those of thousands of digits
        return "a number of more than 40 digits"
    if not isinstance(raw, str | int | float):
        return f"a {type(raw).__name__}"
    if isinstance(raw, str) and _NUMBER.fullmatch(raw):  # as it is typed on a command line
        return raw.strip()
    text = ascii(raw) if isinstance(raw, str) and not is_writable(raw) else repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_options(arguments: object, options: Mapping[str, Kind]) -> None:
    """Read a command line's values as they are read everywhere else; what is not given, None, is left as it is.

    arguments: a namespace with an attribute for each option. options: such as "--stop-at" -> how its value is read.

    Raises:
        SettingsError: a value cannot be used; the message names the option.
    """
    for option, kind in options.items():
        name = option.removeprefix("--").replace("-", "_")
        value = getattr(arguments, name, None)
        if value is not None:
            setattr(arguments, name, kind.read(option, value))


def boolean() -> Kind:
    """True or False, also as text or as 0 and 1."""

    def read(label: str, raw: object) -> bool:
        raw = _plain(raw)
        word = str(raw).strip().lower() if isinstance(raw, str | int | float) else ""
        word = word.removesuffix(".0")
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise SettingsError(f"{label} must be true or false, not {_shown(raw)}.")

    return Kind(read, {"type": "boolean"})


def _finite(raw: object) -> float | None:
    raw = _plain(raw)
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _integer(raw: object) -> int | None:
    """A whole number, exactly: never by way of a float where it is written out."""
    raw = _plain(raw)
    if isinstance(raw, str) and _WHOLE.fullmatch(raw):
        return int(raw.partition(".")[0])
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _number_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def number(low: float, high: float) -> Kind:
    """A number from `low` to `high`, also as text."""

    def read(label: str, raw: object) -> float:
        value = _finite(raw)
        if value is None or not low <= value <= high:
            raise SettingsError(f"{label} must be a number from {low:g} to {high:g}, not {_shown(raw)}.")
        return value + 0.0  # no negative zero

    return Kind(read, {"type": "number", "minimum": low, "maximum": high}, to_text=_number_text)


def whole(low: int, high: int, unit: str = "") -> Kind:
    """A whole number from `low` to `high`, also as text or as a float without a fraction; of any length, exactly."""
    what = f"a whole number{f' of {unit}' if unit else ''}"

    def read(label: str, raw: object) -> int:
        value = _integer(raw)
        if value is None or not low <= value <= high:
            raise SettingsError(f"{label} must be {what} from {low} to {high}, not {_shown(raw)}.")
        return value

    return Kind(read, {"type": "integer", "minimum": low, "maximum": high})


def one_of(*numbers: int) -> Kind:
    """One of a few whole numbers, also as text."""

    def read(label: str, raw: object) -> int:
        value = _integer(raw)
        if value is None or value not in numbers:
            raise SettingsError(f"{label} must be one of {', '.join(map(str, numbers))}, not {_shown(raw)}.")
        return value

    return Kind(read, {"type": "integer", "enum": list(numbers)})


def choice(options: type[Enum]) -> Kind:
    """A member of a string enumeration, also by its value in any case."""
    by_value = {str(option.value).lower(): option for option in options}
    values = [str(option.value) for option in options]

    def read(label: str, raw: object) -> Enum:
        if isinstance(raw, options):
            return raw
        found = by_value.get(raw.strip().lower()) if isinstance(raw, str) else None
        if found is None:
            listed = ", ".join(f'"{value}"' for value in values)
            raise SettingsError(f"{label} must be one of {listed}, not {_shown(raw)}.")
        return found

    return Kind(read, {"type": "string", "enum": values}, _enum_value, _enum_value)


def _enum_value(value: Enum) -> str:
    return str(value.value)


def text(*, strip: bool = True) -> Kind:
    """Free text that can be stored; blanks at its ends carry no meaning and go, unless it is to stay as it is."""

    def read(label: str, raw: object) -> str:
        if not isinstance(raw, str):
            raise SettingsError(f"{label} must be text, not {_shown(raw)}.")
        if not is_writable(raw):
            raise SettingsError(f"{label} has half a character in it ({_shown(raw)}): write that part anew.")
        return raw.strip() if strip else raw

    return Kind(read, {"type": "string"})


def find_method(raw: object, family: Family | None = None) -> LayerMethod:
    """The method that `raw` is or names; short names are looked up within `family`.

    Raises:
        SettingsError: there is none; the message lists the valid ones.
    """
    if isinstance(raw, LayerMethod):
        return raw
    if not isinstance(raw, str):
        listed = ", ".join(METHODS)
        raise SettingsError(f"Method must be the name of one, not {_shown(raw)}; use one of: {listed}.")
    return METHODS.find(raw, family)


def method() -> Kind:
    """A row of the method table, by its label of any release or its short name."""

    def read(_label: str, raw: object) -> LayerMethod:
        return find_method(raw)

    def label_of(row: LayerMethod) -> str:
        return row.label

    return Kind(read, {"type": "string", "enum": list(METHODS)}, label_of, label_of)


def picture(layer: Layer) -> Kind:
    """A picture of any form that `pictures.read_picture` takes; infotext keeps its content's hash."""

    def read(_label: str, raw: object) -> object:
        return read_picture(raw, str(layer))

    def to_json(value: Any) -> object:
        return None if value is None else encode_picture(value)

    def to_text(value: Any) -> str:
        return "" if value is None else picture_hash(value)

    schema = {"type": ["string", "array", "object", "null"]}
    return Kind(read, schema, to_json, to_text)
