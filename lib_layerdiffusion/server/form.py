"""The body of `generate` and `chain` as a table: how each value is called, explained, grouped and read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from lib_layerdiffusion.engine.request import VALUES
from lib_layerdiffusion.errors import quoted
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.server.faults import FieldError, blaming
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.kinds import Kind

EDGES = frozenset({"edge_cleanup", "alpha_low", "alpha_high"})
CLIENT = r"[\w-]{1,64}"


@dataclass(frozen=True)
class Row:
    """One field of a request. group: where the page puts it. picture: whether its value is a picture."""

    name: str
    label: str
    kind: Kind
    group: str
    help: str = ""
    picture: bool = False

    def schema(self) -> dict[str, object]:
        """JSON schema of the field; seeds may be text, since JavaScript's numbers end at 2^53."""
        described = {"title": self.label, "description": self.help, **self.kind.schema, "group": self.group}
        return {**described, "type": ["integer", "string", "null"]} if self.name == "seed" else described


def _value(name: str, label: str, group: str, text: str = "") -> Row:
    return Row(name, label, VALUES[name], group, text)


def _picture(name: str, label: str, text: str) -> Row:
    return Row(name, label, kinds.picture(Layer.FOREGROUND), "picture", text, picture=True)


def _of_settings() -> tuple[Row, ...]:
    # What a method's name means depends on the model, so the text is kept here.
    rows = [row for row in FIELDS if row.name != "enabled"]
    return tuple(
        Row(
            row.name,
            row.label,
            replace(kinds.text(), schema=row.kind.schema) if row.name == "method" else row.kind,
            "picture" if row.attribute == "pictures" else "edges" if row.name in EDGES else "layers",
            "" if row.attribute == "pictures" else row.help,
            picture=row.attribute == "pictures",
        )
        for row in rows
    )


SHARED = (
    _value("prompt", "Prompt", "prompt", "What the picture shows."),
    _value("negative_prompt", "Negative prompt", "prompt", "What the picture should not show."),
    _value("seed", "Seed", "sampling", "Same seed, same picture; empty or -1 for a new one."),
    _value("width", "Width", "size", "In pixels, a multiple of 8."),
    _value("height", "Height", "size", "In pixels, a multiple of 8."),
    _value("batch", "Pictures", "size", "How many pictures to make, each with all its layers."),
    _value("sampler", "Sampler", "sampling", "Empty for the model's own."),
    _value("steps", "Steps", "sampling", "More are slower and finer."),
    _value("guidance", "CFG scale", "sampling", "How closely the picture follows the prompt; 1 switches this off."),
)
OF_START = (
    _picture("init", "Picture to start from", "The result keeps its shapes, and its transparency."),
    _value("strength", "Denoising strength", "sampling", "How much of the picture to start from is made anew."),
    _picture("mask", "Mask", "White where the picture to start from is made anew."),
)
ABOUT = (
    Row("client", "Client", kinds.text(), "about", "Whose history this run belongs to."),
    Row("attended", "Attended", kinds.boolean(), "about", "End the run when nobody looks at it any more."),
)
SETTINGS = _of_settings()
SCENE = Row("scene", "Scene", kinds.text(), "prompt", "What lies behind, without what stands in front.")
GENERATE = {row.name: row for row in (*SHARED, *OF_START, *SETTINGS, *ABOUT)}
_NOT_IN_CHAINS = {"method", Layer.BLENDED.value, *(f"{layer.value}_prompt" for layer in Layer)}
CHAIN = {row.name: row for row in (*SHARED, SCENE, *SETTINGS, *ABOUT) if row.name not in _NOT_IN_CHAINS}


def read_values(body: Mapping[str, object], rows: Mapping[str, Row]) -> dict[str, Any]:
    """The plain values of a request, checked one by one; pictures and what is left out are not among them.

    Raises:
        FieldError: a field is unknown or its value cannot be used.
    """
    for key in body:
        if key not in rows:
            close = get_close_matches(key, rows, n=1)
            hint = f'did you mean "{close[0]}"?' if close else "GET request-schema lists those that there are."
            raise FieldError(f"There is no field {quoted(key)}: {hint}", key)
    values: dict[str, Any] = {}
    for name, row in rows.items():
        raw = body.get(name)
        if row.picture or raw is None or (isinstance(raw, str) and not raw.strip()) or _is_random(name, raw):
            continue
        with blaming(name):
            values[name] = row.kind.read(row.label, raw)
    return values


def _is_random(name: str, raw: object) -> bool:
    return name == "seed" and not isinstance(raw, bool) and str(raw).strip() in {"-1", "-1.0"}


def check_client(client: object) -> str:
    """A client's name.

    Raises:
        FieldError: it is none.
    """
    if not isinstance(client, str) or not re.fullmatch(CLIENT, client):
        raise FieldError("client must be a name of up to 64 letters, digits and dashes.", "client")
    return client


def request_schema(defaults: Mapping[str, object], rows: Mapping[str, Row] = GENERATE) -> dict[str, object]:
    """JSON schema (draft 2020-12) of the body of `generate`, or of another one. defaults: by name."""
    properties = {name: {**row.schema(), "default": defaults.get(name)} for name, row in rows.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run",
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "additionalProperties": False,
    }
