"""Routes beside the host's own: settings' schema, methods, decoding, encoding and composing pictures, layered files.

A mistake of the caller's is answered with 422 and one sentence as `detail`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import Enum
from functools import wraps
from typing import Any, cast

import safetensors.torch
import torch
from fastapi import FastAPI, HTTPException
from modules.call_queue import queue_lock
from safetensors import SafetensorError
from torch import Tensor

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.hosts.forge import codec, options
from lib_layerdiffusion.hosts.forge.earlier import is_name
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.layerfile import layer_file_bytes
from lib_layerdiffusion.images.reading import MAX_PIXELS, Picture, encode_picture, read_picture
from lib_layerdiffusion.methods import METHODS, Family, LayerMethod
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.fields import PASS_COUNTS
from lib_layerdiffusion.settings.parsing import json_schema
from lib_layerdiffusion.transparency import LATENT_FACTOR
from lib_layerdiffusion.weights import FileStatus

PREFIX = "/layerdiffusion/v1"
HOST_ROUTE = "/sdapi/v1/options"
UNPROCESSABLE = 422
MAX_OFFSET = 1_000_000
_LATENT_HELP = "send base64 of a safetensors file with one tensor [4, height / 8, width / 8]"


Find = Callable[[str], object]
"""Gives an earlier result by its name."""


class Body:
    """A request's named values, read one by one. find: gives earlier results.

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
        raw = self._values.get(name)
        return read_picture(self._find(str(raw)) if is_name(raw) else raw, name)

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


def answering(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Answer the caller's mistakes with 422 and the sentence."""

    @wraps(endpoint)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return endpoint(*args, **kwargs)
        except LayerDiffusionError as error:
            raise HTTPException(UNPROCESSABLE, detail=str(error)) from error
        except torch.OutOfMemoryError as error:
            sentence = "The picture is too large for the memory that is free: make it smaller."
            raise HTTPException(UNPROCESSABLE, detail=sentence) from error

    return answer


class FileFormat(str, Enum):
    """Kinds of layered files."""

    ORA = "ora"
    PSD = "psd"

    @property
    def ending(self) -> str:
        """Of a file's name."""
        return f".{self.value}"


class Routes:
    """The routes' functions; those that use a network wait for the host's own work to end."""

    def __init__(self, models: ForgeModels) -> None:
        self._models = models

    def _read(self, body: Mapping[str, object], *names: str) -> Body:
        return Body(body, self._models.earlier.find, *names)

    def schema(self) -> dict[str, object]:
        """JSON schema of the settings, as an object in place of the script's arguments."""
        return json_schema()

    def methods(self) -> dict[str, object]:
        """The methods, what each gives and needs, and which of their files are installed."""
        files = {status.file.name: status for status in self._models.store.status()}
        try:
            family: str | None = str(codec.loaded_family())
        except LayerDiffusionError:
            family = None
        return {"loaded_family": family, "methods": [_described(method, files) for method in METHODS.values()]}

    def decode(self, body: dict[str, Any]) -> dict[str, object]:
        """latent, and the picture that it decodes to or nothing -> the picture with alpha."""
        given = self._read(body, "latent", "picture", "family", "decode_passes")
        latent, picture = given.latent("latent"), given.optional_picture("picture")
        family = given.value("family", kinds.choice(Family), None)
        passes = given.value("decode_passes", kinds.one_of(*PASS_COUNTS), options.defaults()["decode_passes"])
        with queue_lock:
            rgba = codec.decode(latent, picture, family, passes, self._models)
        return {"picture": encode_picture(rgba)}

    def encode(self, body: dict[str, Any]) -> dict[str, object]:
        """A picture with alpha -> the latent that hides it, and the picture that the VAE makes of that."""
        given = self._read(body, "picture")
        rgba = given.picture("picture")
        with queue_lock:
            picture, latent = codec.encode(rgba, self._models)
            family = codec.loaded_family()
        return {"picture": encode_picture(picture), "latent": write_latent(latent), "family": str(family)}

    def compose(self, body: dict[str, Any]) -> dict[str, object]:
        """Foreground, scaled and moved, over background; the result has the background's size."""
        given = self._read(body, "foreground", "background", "left", "top", "scale", "linear")
        composed = compose.place(
            given.picture("foreground"),
            given.picture("background"),
            left=given.whole("left"),
            top=given.whole("top"),
            scale=given.value("scale", kinds.number(0, compose.MAX_SCALE), 1.0),
            linear=given.value("linear", kinds.boolean(), default=False),
        )
        return {"picture": encode_picture(composed)}

    def layers(self, body: dict[str, Any]) -> dict[str, object]:
        """Layers, lowest first, each an object with name, picture, left, top and visible -> one .ora or .psd file."""
        given = self._read(body, "layers", "width", "height", "format")
        ending = given.value("format", kinds.choice(FileFormat), FileFormat.ORA).ending
        layers = [self._layer(values, number) for number, values in enumerate(given.objects("layers"), 1)]
        size = (given.whole("height"), given.whole("width"))
        if any(size) and min(size) < 1:
            raise SettingsError("The canvas needs width and height in pixels, or neither.")
        content = layer_file_bytes(ending, layers, size if any(size) else None)
        return {"file": base64.b64encode(content).decode("ascii"), "name": f"layers{ending}"}

    def _layer(self, values: Mapping[str, object], number: int) -> compose.Layer:
        given = self._read(values, "name", "picture", "left", "top", "visible")
        return compose.Layer(
            given.value("name", kinds.text(), f"Layer {number}"),
            given.picture("picture"),
            given.whole("left"),
            given.whole("top"),
            given.value("visible", kinds.boolean(), default=True),
        )


def _described(method: LayerMethod, files: Mapping[str, FileStatus]) -> dict[str, object]:
    needed = [files[name].to_mapping() for name in method.file_names]
    for file in needed:
        file.pop("path")  # where the server keeps things is nobody's business
    return {
        "name": method.name,
        "label": method.label,
        "family": str(method.family),
        "inputs": [str(layer) for layer in method.inputs],
        "layers": [{"layer": str(layer), "alpha": method.is_rgba(i)} for i, layer in enumerate(method.frames)],
        "outcome": method.outcome,
        "installed": all(file["installed"] for file in needed),
        "files": needed,
    }


def add_routes(models: ForgeModels, app: FastAPI) -> bool:
    """Add the routes where the host serves its own API, behind the same login; returns whether it does."""
    host_route = next((route for route in app.routes if getattr(route, "path", "") == HOST_ROUTE), None)
    if host_route is None:
        return False
    dependencies = list(cast("Any", host_route).dependencies)
    routes = Routes(models)
    for verb, endpoint in (
        ("GET", routes.schema),
        ("GET", routes.methods),
        ("POST", routes.decode),
        ("POST", routes.encode),
        ("POST", routes.compose),
        ("POST", routes.layers),
    ):
        app.add_api_route(
            f"{PREFIX}/{endpoint.__name__}",
            answering(endpoint),
            methods=[verb],
            dependencies=dependencies,
            tags=["LayerDiffusion"],
        )
    return True
