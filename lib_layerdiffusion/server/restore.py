"""From a picture's infotext back to the request that makes it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.server.form import GENERATE
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.infotext import from_infotext, parse_parameters

_NEGATIVE = "Negative prompt: "
_KEYS = {"Steps": "steps", "CFG scale": "guidance", "Seed": "seed", "Denoising strength": "strength"}
_SIZE = re.compile(r"(\d+)x(\d+)")


def restored_request(infotext: str, facts: ModelFacts) -> tuple[dict[str, object] | None, list[str]]:
    """The fields of a request that an infotext names, None where it names none; and what was left out, in sentences.

    Pictures are not in an infotext, so they are left out without a word.
    """
    values = parse_parameters(infotext)
    if "Steps" not in values:
        return None, []
    ignored: list[str] = []
    raw = {**_prompts(infotext), **_plain(values)}
    if values.get("Model") == facts.name and raw["sampler"] == facts.own_sampler:
        raw["sampler"] = ""  # the model's own has more to it than its name
    restored = from_infotext(values)
    ignored += restored.ignored
    if restored.settings.enabled:
        raw |= _settings(restored.settings)
    request: dict[str, object] = {}
    for name, value in raw.items():
        _take(request, ignored, name, value, facts)
    return request, ignored


def _take(request: dict[str, object], ignored: list[str], name: str, value: object, facts: ModelFacts) -> None:
    try:
        request[name] = _known(name, value, facts)
    except LayerDiffusionError as error:
        ignored.append(str(error))


def _prompts(infotext: str) -> dict[str, object]:
    above = infotext.strip().rpartition("\n")[0]
    prompt, _, negative = f"\n{above}".partition(f"\n{_NEGATIVE}")
    return {"prompt": prompt.removeprefix("\n"), "negative_prompt": negative}


def _plain(values: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {name: values[key] for key, name in _KEYS.items() if key in values}
    sampler = values.get("Sampler", "")
    schedule = values.get("Schedule type", "Automatic")
    found["sampler"] = sampler if schedule == "Automatic" else f"{sampler} {schedule}"
    size = _SIZE.fullmatch(values.get("Size", ""))
    if size:
        found |= {"width": size[1], "height": size[2]}
    return found


def _settings(settings: object) -> dict[str, object]:
    rows = [row for row in FIELDS[1:] if row.attribute != "pictures"]
    return {
        row.name: row.kind.to_json(row.get(settings))
        for row in rows
        if row.name == "method" or row.get(settings) != row.default
    }


def _known(name: str, value: object, facts: ModelFacts) -> object:
    """The value as an answer has it.

    Raises:
        LayerDiffusionError: this model or this release cannot use it.
    """
    row = GENERATE[name]
    if name == "method":
        return facts.own_method(value).label
    read = row.kind.read(row.label, value) if value != "" else ""
    if name == "sampler" and read:
        facts.check_sampler(str(read))
    return str(read) if name == "seed" else row.kind.to_json(read)
