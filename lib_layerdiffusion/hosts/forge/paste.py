"""Infotext back into the panel: pasted text, PNG Info's buttons and the API's `infotext` field."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.infotext import Restored, from_infotext

_ROWS = {row.name: row for row in FIELDS}
_SIZE = re.compile(r"\d+")


@dataclass(frozen=True)
class Reader:
    """Reads one setting out of an infotext that the host has taken apart; None leaves its control as it is.

    Equal for both tabs, so that the host's "Send to img2img" finds a control's counterpart.
    """

    name: str

    def __call__(self, params: Mapping[str, Any]) -> object:
        """The control's value: plain, because the API cannot read what pages take as an update."""
        row = _ROWS[self.name]
        restored = restore(params)
        if self.name == "enabled":
            # Text without any parameters is a prompt; text with them and without ours is a plain picture's.
            return restored.settings.enabled if restored.settings.enabled or "Steps" in params else None
        if row.attribute == "pictures" or not restored.settings.enabled:
            return None
        return row.kind.to_json(row.get(restored.settings))


def fields(components: Mapping[str, Any]) -> list[tuple[Any, Reader]]:
    """The `infotext_fields` of a script: each control with what reads it. components: by name of setting."""
    return [(components[row.name], Reader(row.name)) for row in FIELDS]


def field_names() -> list[Any]:
    """The `paste_field_names` of a script; the host compares them with the second members of `fields`."""
    return [Reader(row.name) for row in FIELDS]


def restore(params: Mapping[str, Any]) -> Restored:
    """What an infotext that the host has taken apart says about layers; never fails."""
    return from_infotext(_rejoined(params))


def _rejoined(params: Mapping[str, Any]) -> dict[str, object]:
    """The host takes every value like "640x512" for a size and splits it into two; a prompt may be just that."""
    whole: dict[str, object] = dict(params)
    for key in {key for row in FIELDS for key in (row.infotext, row.old_infotext) if key}:
        parts = [str(params.get(f"{key}-{number}", "")) for number in (1, 2)]
        if all(_SIZE.fullmatch(part) for part in parts):
            whole[key] = "x".join(parts)
            del whole[f"{key}-1"], whole[f"{key}-2"]
    return whole


def messages(params: Mapping[str, Any]) -> list[str]:
    """One sentence for each picture that has to be put in again and for everything that was left out."""
    restored = restore(params)
    wanted = [
        f"This picture was made with a {layer} picture{f' (content {digest})' if digest else ''}: "
        f'put it into "{_ROWS[layer.value].label}" again.'
        for layer, digest in restored.picture_hashes.items()
        if layer in restored.settings.method.inputs
    ]
    return [*wanted, *restored.ignored]


def tell(_infotext: str, params: Mapping[str, Any]) -> None:
    """Tell the user what a paste could not restore; toasts are HTML, and infotext comes from anybody's pictures."""
    for message in messages(params):
        gr.Info(html.escape(f"LayerDiffusion: {message}", quote=False))
