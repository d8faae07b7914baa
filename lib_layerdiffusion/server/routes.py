"""Routes that every host's API has: settings' schema, methods, decoding, encoding, composing, layered files.

One implementation for Forge's API and for this project's own server; what differs is behind `RouteHost`. A mistake of
the caller's is answered with 422 and one sentence as `detail`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

from fastapi import HTTPException
from torch import Tensor

from lib_layerdiffusion.errors import LayerDiffusionError, SettingsError, within_memory
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.layerfile import layer_file_bytes
from lib_layerdiffusion.images.opacity import has_transparency, opaque_input_note
from lib_layerdiffusion.images.reading import Picture, encode_picture
from lib_layerdiffusion.methods import METHODS, Family, LayerMethod
from lib_layerdiffusion.server.bodies import Body, write_latent
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.fields import PASS_COUNTS
from lib_layerdiffusion.settings.parsing import json_schema
from lib_layerdiffusion.weights import FileStatus

PREFIX = "/layerdiffusion/v1"
UNPROCESSABLE = 422


class RouteHost(Protocol):
    """What the routes need of a program with a model in it. Calls that use the model wait until it is free."""

    def loaded_family(self) -> Family | None:
        """Family of the loaded model, None where there is none that methods are made for."""
        ...

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files by their catalogue names."""
        ...

    def find(self, value: object) -> object:
        """The picture that a request's value names, or the value itself where it is no name.

        Raises:
            InputError: there is none of that name.
        """
        ...

    def default_passes(self) -> int:
        """Decode passes where a request names none."""
        ...

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """Picture that the VAE makes of the latent, uint8 [H, W, 3]; the latent [1, 4, H/8, W/8]; the model's family.

        Raises:
            LayerDiffusionError: the picture or the model cannot be used.
        """
        ...

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """RGBA of a latent [1, 4, h, w] in the VAE's scale, uint8 [H, W, 4]; without a picture the VAE makes it.

        Raises:
            LayerDiffusionError: they do not belong together, or model or weights are missing.
        """
        ...


def answering(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Answer the caller's mistakes with 422 and the sentence."""

    @wraps(endpoint)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            with within_memory("this picture"):
                return endpoint(*args, **kwargs)
        except LayerDiffusionError as error:
            raise HTTPException(UNPROCESSABLE, detail=str(error)) from error

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
    """The routes' functions."""

    def __init__(self, host: RouteHost) -> None:
        self._host = host

    def _read(self, body: Mapping[str, object], *names: str) -> Body:
        return Body(body, self._host.find, *names)

    def schema(self) -> dict[str, object]:
        """JSON schema of the settings, as an object in place of the script's arguments."""
        return json_schema()

    def methods(self) -> dict[str, object]:
        """The methods, what each gives and needs, and which of their files are installed."""
        files, family = self._host.files(), self._host.loaded_family()
        loaded = None if family is None else str(family)
        return {"loaded_family": loaded, "methods": [_described(method, files) for method in METHODS.values()]}

    def decode(self, body: dict[str, Any]) -> dict[str, object]:
        """latent, and the picture that it decodes to or nothing -> the picture with alpha."""
        given = self._read(body, "latent", "picture", "family", "decode_passes")
        latent, picture = given.latent("latent"), given.optional_picture("picture")
        family = given.value("family", kinds.choice(Family), None)
        passes = given.value("decode_passes", kinds.one_of(*PASS_COUNTS), self._host.default_passes())
        return {"picture": encode_picture(self._host.decode(latent, picture, family, passes))}

    def encode(self, body: dict[str, Any]) -> dict[str, object]:
        """A picture with alpha -> the latent that hides it, and the picture that the VAE makes of that."""
        given = self._read(body, "picture")
        rgba = given.picture("picture")
        picture, latent, family = self._host.encode(rgba)
        notes = [] if has_transparency(rgba) else [opaque_input_note("given")]
        answer = {"picture": encode_picture(picture), "latent": write_latent(latent), "family": str(family)}
        return {**answer, "notes": notes}

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
    needed = [_told(files[name]) for name in method.file_names]
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


def _told(status: FileStatus) -> dict[str, object]:
    """A file without the place where the server keeps it, which is nobody's business."""
    told = status.to_mapping()
    place = told.pop("path")
    for key in ("problem", "warning"):
        told[key] = str(told[key]).replace(str(place), Path(str(place)).name)
    return told


def shared_routes(host: RouteHost) -> list[tuple[str, str, Callable[..., Any]]]:
    """(verb, path below `PREFIX`, endpoint) of every route."""
    routes = Routes(host)
    gets, posts = (routes.schema, routes.methods), (routes.decode, routes.encode, routes.compose, routes.layers)
    rows = [("GET", endpoint) for endpoint in gets] + [("POST", endpoint) for endpoint in posts]
    return [(verb, endpoint.__name__, answering(endpoint)) for verb, endpoint in rows]
