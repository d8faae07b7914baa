"""What a request's body says, read value by value: pictures, latents, numbers, choices.

A mistake is a `LayerDiffusionError` whose sentence names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, cast

from torch import Tensor

from lib_layerdiffusion.engine.latents import HELP as LATENT_HELP
from lib_layerdiffusion.engine.latents import read_latent, write_latent
from lib_layerdiffusion.errors import InputError, SettingsError, quoted
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.settings import kinds

__all__ = ["MAX_OFFSET", "Body", "Find", "read_latent", "write_latent"]

MAX_OFFSET = 1_000_000

Find = Callable[[object], object]
"""Gives the picture that a value names; a value that is no name is given back."""


class Body:
    """A request's named values, read one by one. find: gives the pictures that are named.

    Raises:
        SettingsError: a name is unknown; so do the methods for values that are not valid.
    """

    def __init__(self, values: Mapping[str, object], find: Find, *names: str) -> None:
        self._values, self._find = values, find
        for key in values:
            if key not in names:
                close = get_close_matches(key, names, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"use {', '.join(names)}."
                raise SettingsError(f"There is no field {quoted(key)}: {hint}")

    def value(self, name: str, kind: kinds.Kind, default: Any) -> Any:
        """A value of one of the kinds that settings have."""
        raw = self._values.get(name)
        return default if raw is None or raw == "" else kind.read(name, raw)

    def whole(self, name: str) -> int:
        """A whole number of pixels, 0 where it is not given."""
        return int(self.value(name, kinds.whole(-MAX_OFFSET, MAX_OFFSET, "pixels"), 0))

    def objects(self, name: str) -> list[Mapping[str, object]]:
        """A list of objects."""
        raw = self._values.get(name)
        if not isinstance(raw, list) or not all(isinstance(item, Mapping) for item in raw):
            raise SettingsError(f"{name} must be a list of objects.")
        return cast("list[Mapping[str, object]]", raw)

    def optional_picture(self, name: str) -> Picture | None:
        """A picture in any form that settings take it in, or the name of an earlier result.

        Raises:
            InputError: it cannot be used.
        """
        return read_picture(self._find(self._values.get(name)), name)

    def picture(self, name: str) -> Picture:
        """As `optional_picture`; a missing one is an error."""
        picture = self.optional_picture(name)
        if picture is None:
            raise InputError(f'The request has no picture "{name}": send it as base64.')
        return picture

    def latent(self, name: str) -> Tensor:
        """float32 [1, 4, h, w].

        Raises:
            InputError: it is missing or something else.
        """
        raw = self._values.get(name)
        if not isinstance(raw, str) or not raw.strip():
            raise InputError(f'The request has no latent "{name}": {LATENT_HELP}.')
        return read_latent(raw)
