"""Settings in the text that WebUIs write into pictures ("Steps: 20, Sampler: Euler, ...").

Ours are written once and without defaults; those of the reference extension ("layerdiffusion_...") stay readable.
Pictures do not fit into text: their content's hash is written, so that a restored form can say which one is missing.
Reading never fails: people cut and edit infotext, so what makes no sense is left out and reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.images.reading import Picture, picture_hash
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.fields import FIELDS, SettingField
from lib_layerdiffusion.settings.parsing import LayerSettings

_KEY = re.compile(r"\w[\w \-/]+")
_HASH = re.compile(r"[0-9a-f]{10}")
_OURS = "layerdiffusion"
_ENABLED, _METHOD = FIELDS[0], FIELDS[1]
_NEEDS_QUOTES = re.compile(r'[,:"\x00-\x1f]')


@dataclass(frozen=True)
class Restored:
    """What an infotext says about layers.

    settings: without pictures; disabled where the text names no method. picture_hashes: for each condition picture that
    was used the hash of its content, "" where an old text only says that there was one. ignored: one sentence for
    everything that was left out.
    """

    settings: LayerSettings
    picture_hashes: Mapping[Layer, str]
    ignored: tuple[str, ...] = ()

    def is_picture_of(self, layer: Layer, picture: Picture) -> bool:
        """Whether `picture` is the one that was used as `layer`; where only an old text is left, any picture may be."""
        return self.picture_hashes.get(layer) in {"", picture_hash(picture)}


def to_infotext(settings: LayerSettings) -> dict[str, str]:
    """Infotext keys and plain values of `settings`: the method, and what differs from its default; hosts quote them."""
    if not settings.enabled:
        return {}
    return {row.infotext: row.kind.to_text(row.get(settings)) for row in FIELDS[1:] if _is_worth_writing(row, settings)}


def _is_worth_writing(row: SettingField, settings: LayerSettings) -> bool:
    value = row.get(settings)
    if row.attribute == "pictures":
        return value is not None and row.layer in settings.method.inputs
    return row is _METHOD or value != row.default


def from_infotext(values: Mapping[str, object]) -> Restored:
    """Read the settings out of an infotext's keys and values, those of other extensions among them."""
    texts = {key: str(value).strip() for key, value in values.items() if key.lower().startswith(_OURS)}
    known = {key for row in FIELDS for key in (row.infotext, row.old_infotext)}
    ignored = [f'"{key}" is no setting of this release.' for key in texts if key not in known]
    raw: dict[str, object] = {}
    hashes: dict[Layer, str] = {}
    for row in FIELDS:
        text = texts.get(row.infotext, texts.get(row.old_infotext, ""))
        try:
            if row.attribute == "pictures" and row.layer is not None:
                hashes.update(_read_hash(row.layer, text))
            elif text:
                raw[row.name] = row.read(text)
        except LayerDiffusionError as error:
            ignored.append(str(error))
    switched_off = raw.pop(_ENABLED.name, True) is False
    if _METHOD.name not in raw and texts and not switched_off:
        ignored.append("The infotext names no method that is known, so LayerDiffusion stays off.")
    if _METHOD.name not in raw or switched_off:
        return Restored(LayerSettings(), MappingProxyType({}), tuple(ignored))
    return Restored(LayerSettings.from_mapping({**raw, _ENABLED.name: True}), MappingProxyType(hashes), tuple(ignored))


def _read_hash(layer: Layer, text: str) -> dict[Layer, str]:
    if text.lower() in {"", "false", "none"}:
        return {}
    if text.lower() == "true":  # the reference extension says no more than that
        return {layer: ""}
    if _HASH.fullmatch(text):
        return {layer: text}
    raise LayerDiffusionError(f'The {layer} picture cannot be recognised by "{text[:60]}".')


def names_layers(infotext: str) -> bool:
    """Whether an infotext belongs to a picture made with layers, by this extension or the reference."""
    return any(key.lower().startswith(_OURS) for key in parse_parameters(infotext))


def format_parameters(values: Mapping[str, object]) -> str:
    """`values` as a line of an infotext; values that would break the line are quoted as JSON."""
    return ", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items())


def parse_parameters(infotext: str) -> dict[str, str]:
    """Keys and values in the last line of an infotext; pieces without a key are skipped."""
    line = infotext.strip().rpartition("\n")[2]
    found: dict[str, str] = {}
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key = (
            line[line.rfind(",", position, colon) + 1 : colon] if "," in line[position:colon] else line[position:colon]
        )
        value, position = _read_value(line, colon + 1)
        if _KEY.fullmatch(key.strip()):
            found[key.strip()] = value
    return found


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if _NEEDS_QUOTES.search(value) or value != value.strip() else value


def _read_value(line: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and where the next piece begins."""
    start += len(line[start:]) - len(line[start:].lstrip())
    if line.startswith('"', start):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except ValueError:
            pass
        else:
            comma = line.find(",", end)
            return str(value), len(line) if comma < 0 else comma + 1
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), min(end + 1, len(line))
