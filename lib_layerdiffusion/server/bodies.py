"""What a request's body says, read value by value: pictures, latents, numbers, choices.

A mistake is a `LayerDiffusionError` whose sentence names the field.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from lib_layerdiffusion.errors import InputError, SettingsError
from lib_layerdiffusion.images.reading import MAX_PIXELS, Picture, read_picture
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.transparency import LATENT_FACTOR

MAX_OFFSET = 1_000_000
_LATENT_HELP = "send base64 of a safetensors file with one tensor [4, height / 8, width / 8]"

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
                raise SettingsError(f'There is no field "{key[:60]}": {hint}')

    def value(self, name: str, kind: kinds.Kind, default: Any) -> Any:
        """A value of one of the kinds that settings have."""
        raw = self._values.get(name)
        return default if raw is None or raw == "" else kind.read(name, raw)

    def whole(self, name: str) -> int:
        """A whole number of pixels, 0 where it is not given."""
        number = self.value(name, kinds.number(-MAX_OFFSET, MAX_OFFSET), 0.0)
        if not float(number).is_integer():
            raise SettingsError(f"{name} must be a whole number of pixels, not {number:g}.")
        return int(number)

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
            raise InputError(f'The request has no latent "{name}": {_LATENT_HELP}.')
        return read_latent(raw)


def read_latent(text: str) -> Tensor:
    """Base64 of a safetensors file with one tensor [4, h, w] or [1, 4, h, w] -> float32 [1, 4, h, w].

    Raises:
        InputError: it is something else, too large, or not finite.
    """
    try:
        content = base64.b64decode("".join(text.partition("base64,")[2].split() or text.split()), validate=True)
        tensors = list(safetensors.torch.load(content).values())
    except (binascii.Error, ValueError, SafetensorError, KeyError) as error:
        raise InputError(f"The latent cannot be read: {_LATENT_HELP}.") from error
    if len(tensors) != 1:
        raise InputError(f"The latent's file has {len(tensors)} tensors: {_LATENT_HELP}.")
    latent = tensors[0][None] if tensors[0].ndim == 3 else tensors[0]
    if latent.ndim != 4 or latent.shape[:2] != (1, 4) or min(latent.shape) < 1:
        shape = " x ".join(map(str, tensors[0].shape))
        raise InputError(f"The latent is of shape {shape}: {_LATENT_HELP}.")
    if latent.shape[2] * latent.shape[3] * LATENT_FACTOR**2 > MAX_PIXELS:
        raise InputError(f"The latent is that of more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller.")
    latent = latent.float()
    if not bool(torch.isfinite(latent).all()):
        raise InputError("The latent has values that are no numbers: make the picture anew.")
    return latent


def write_latent(latent: Tensor) -> str:
    """The inverse of `read_latent`."""
    return base64.b64encode(safetensors.torch.save({"latent": latent.contiguous()})).decode("ascii")
