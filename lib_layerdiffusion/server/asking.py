"""A request's body becomes a run that is known to be possible: everything is checked before it waits in the queue."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib_layerdiffusion.engine.chains import TO_BACKGROUND, TO_FOREGROUND, Chain, Words, steps_of
from lib_layerdiffusion.engine.choices import Choices
from lib_layerdiffusion.engine.request import PictureRequest, build_request
from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.methods import Layer, LayerMethod
from lib_layerdiffusion.server.faults import FieldError, blaming
from lib_layerdiffusion.server.form import CHAIN, GENERATE, Row, check_client, read_values
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.progress import Part
from lib_layerdiffusion.server.uploads import Uploads, png_bytes

CHAINS: Mapping[Layer, Chain] = {chain.given: chain for chain in (TO_FOREGROUND, TO_BACKGROUND)}
Find = Callable[[object], object]
"""Gives the content of the picture that a value names; a value that is no name is given back."""


@dataclass(frozen=True)
class Asked:
    """A checked run; it can travel to another process.

    kind: the engine's function, "generate", "extract_foreground" or "extract_background". arguments: of it. method: of
    the last step. request: the body, pictures by name, from which the same comes again. client: "" for nobody's.
    """

    kind: str
    arguments: Mapping[str, Any]
    method: LayerMethod
    seed: int
    parts: tuple[Part, ...]
    request: Mapping[str, object]
    client: str = ""
    attended: bool = False
    prompts: tuple[str, ...] = ()


class Desk:
    """Reads requests for one kind of model. find: gives pictures by name."""

    def __init__(self, facts: ModelFacts, uploads: Uploads, find: Find, limits: Limits) -> None:
        self._facts, self._uploads, self._find, self._limits = facts, uploads, find, limits

    def generate(self, body: Mapping[str, object]) -> Asked:
        """A run of one step.

        Raises:
            LayerDiffusionError: something in it cannot be used; FieldError where one field is to blame.
        """
        values = read_values(body, GENERATE)
        _check_prompt(body)
        with blaming("method"):
            method = self._facts.own_method(values.pop("method", None))
        echo, pictures = self._pictures(body, GENERATE)
        arguments = _engine_arguments(values, pictures)
        request = self._checked(method, arguments)
        arguments |= {"method": method, "seed": request.seed}
        part = _part(request, method, request.batch)
        return Asked(
            "generate",
            arguments,
            method,
            request.seed,
            (part,),
            _echo(values, echo, request.seed) | {"method": method.label},
            **_about(values),
            prompts=(request.prompt, *request.settings.prompts.values()),
        )

    def chain(self, body: Mapping[str, object]) -> Asked:
        """A run of two steps.

        Raises:
            LayerDiffusionError: as `generate`.
        """
        values = read_values(body, CHAIN)
        _check_prompt(body)
        echo, pictures = self._pictures(body, CHAIN)
        given = [layer for layer in CHAINS if layer.value in pictures]
        if len(given) != 1:
            raise InputError("A chain begins with a foreground or a background picture: send one of them.")
        chain = CHAINS[given[0]]
        words = Words(values["prompt"], values.pop("scene", ""))
        arguments = _engine_arguments(values, pictures)
        steps = steps_of(self._facts.methods, chain)
        request = self._checked(steps[0], {**arguments, **words.arguments(steps[0])})
        arguments |= {"seed": request.seed, "scene": words.scene}
        parts = [_part(request, steps[0], request.batch)]
        parts += [_part(request, method, 1) for method in steps[1:] for _ in range(request.batch)]
        kind = "extract_foreground" if chain is TO_FOREGROUND else "extract_background"
        return Asked(
            kind,
            arguments,
            steps[-1],
            request.seed,
            tuple(parts),
            _echo(values, echo, request.seed) | ({"scene": words.scene} if words.scene else {}),
            **_about(values),
            prompts=(words.who, words.scene),
        )

    def _checked(self, method: LayerMethod, arguments: Mapping[str, Any]) -> PictureRequest:
        named = {key: value for key, value in arguments.items() if key not in {"prompt", "seed", "size", "batch"}}
        choices: Choices = named  # type: ignore[assignment]
        if arguments.get("batch", 1) > self._limits.batch:
            raise FieldError(f"Pictures must be from 1 to {self._limits.batch}.", "batch")
        if arguments.get("sampler"):
            with blaming("sampler"):
                self._facts.check_sampler(arguments["sampler"])
        request = build_request(
            arguments["prompt"],
            method,
            choices,
            self._facts,
            seed=arguments.get("seed"),
            size=arguments.get("size"),
            batch=arguments.get("batch", 1),
        )
        with blaming("width"):
            self._facts.check_size(request.width, request.height)
        return request

    def _pictures(
        self, body: Mapping[str, object], rows: Mapping[str, Row]
    ) -> tuple[dict[str, object], dict[str, Picture]]:
        """Names for the pictures of a request, and the pictures."""
        names: dict[str, object] = {}
        pictures: dict[str, Picture] = {}
        for name, row in rows.items():
            raw = body.get(name) if row.picture else None
            if raw is None or raw == "":
                continue
            with blaming(name):
                found = self._find(raw)
                picture = read_picture(found, row.label.lower().removesuffix(" picture"))
                if picture is not None:
                    kept = found is not raw
                    names[name] = raw if kept else self._uploads.add(_content(raw, picture)).name
                    pictures[name] = picture
        return names, pictures


def _content(raw: object, picture: Picture) -> bytes:
    """The file that a request holds, or one that is made of its values."""
    if isinstance(raw, str):
        payload = raw.partition(",")[2] if raw.lstrip().startswith("data:") else raw
        try:
            return base64.b64decode("".join(payload.split()), validate=True)
        except (binascii.Error, ValueError):
            pass
    return png_bytes(np.asarray(picture))


def _check_prompt(body: Mapping[str, object]) -> None:
    if not isinstance(body.get("prompt"), str):
        raise FieldError("A run needs a prompt: say what the picture shows.", "prompt")


def _engine_arguments(values: Mapping[str, Any], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """A request's values by the names of the engine's arguments."""
    arguments = {name: value for name, value in values.items() if name not in {"client", "attended"}}
    arguments.setdefault("prompt", "")
    sides = arguments.pop("width", None), arguments.pop("height", None)
    if any(side is not None for side in sides):
        if None in sides:
            raise FieldError("Width and height go together: give both or neither.", "width")
        arguments["size"] = sides
    prompts = {layer: arguments.pop(f"{layer.value}_prompt", "") for layer in Layer}
    if any(prompts.values()):
        arguments["layer_prompts"] = {layer: text for layer, text in prompts.items() if text}
    return arguments | {"init_image" if name == "init" else name: picture for name, picture in pictures.items()}


def _echo(values: Mapping[str, Any], pictures: Mapping[str, object], seed: int) -> dict[str, object]:
    rows = {**GENERATE, **CHAIN}
    plain = {name: rows[name].kind.to_json(value) for name, value in values.items() if name != "attended"}
    plain.setdefault("prompt", "")
    return {**plain, **pictures, "seed": str(seed)}


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    client = values.get("client", "")
    if client:
        check_client(client)
    return {"client": client, "attended": values.get("attended", False)}


def _part(request: PictureRequest, method: LayerMethod, batch: int) -> Part:
    """What a step of a run costs."""
    steps = request.steps if request.init is None else int(request.steps * request.strength)
    frames = method.frame_count
    passes = sum(1 + (request.settings.decode_passes if method.is_rgba(index) else 0) for index in range(frames))
    pixels = float(request.width * request.height)
    return Part(steps, batch * passes, pixels * batch * frames, pixels)


RESULT = re.compile(r"([0-9a-f]{32})-(\d{1,4})-([a-z]+(?:-(?:preview|origin|rgb|mask))?)")
"""Name of a result: its run, number and layer."""
