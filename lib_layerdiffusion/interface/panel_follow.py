"""How the panel follows what is chosen in it: in the browser, so that nothing flickers, jumps or waits for a server.

Everything that can be shown is worked out here, once, and handed over as a table; the scripts only look it up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from lib_layerdiffusion.interface import wording
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod, Technique
from lib_layerdiffusion.settings.examples import EXAMPLES

_NOTE_HEIGHT = "min-height: 4.2em"
"""Room for all that can be said of a method, so that what stands below keeps its place."""

_FOLLOW = """(label, family, ...rest) => {
    const facts = FACTS;
    const method = facts.methods[label];
    if (!method) return rest.slice(facts.missing.length).map(() => ({__type__: "update"}));
    const shown = (visible) => ({__type__: "update", visible});
    const wrong = family && family !== method.family ? facts.families[family] : "";
    const missing = facts.missing.filter((_, index) => method.pictures[index] && !rest[index]);
    return [
        [facts.frame[0], method.outcome, wrong, ...missing, facts.frame[1]].join(""),
        ...method.pictures.map(shown), shown(method.pictures.includes(true)), ...method.prompts.map(shown),
    ];
}"""
_FILL_IN = """(name, family, ...outputs) => {
    const example = EXAMPLES[name];
    if (!example) return outputs.map(() => ({__type__: "update"}));
    return [example.methods[family] || Object.values(example.methods).pop(), ...example.values];
}"""


def has_own_prompt(method: LayerMethod, layer: Layer) -> bool:
    """A prompt for each layer makes sense where one run makes several."""
    return method.technique is Technique.ATTENTION_SHARING and method.frame_count > 1 and layer in method.frames


def note(method: LayerMethod, given: Sequence[Layer] = (), family: Family | None = None) -> str:
    """HTML under Method: what comes out, and what is missing. given: pictures at hand. family: of the loaded model."""
    wrong = [] if family in (None, method.family) else [wording.wrong_model(family)]
    lacking = [wording.missing(layer) for layer in method.inputs if layer not in given]
    return _framed(_line(wording.outcome(method)) + "".join(_line(text, loud=True) for text in (*wrong, *lacking)))


def follow_script() -> str:
    """(method, family, pictures by layer) -> note; visibility of pictures by layer, resize mode, prompts by layer.

    family: of the loaded model, "" where it is not known. Pictures: anything that is false while there is none.
    """
    methods = {
        row.label: {
            "family": row.family.value,
            "outcome": _line(wording.outcome(row)),
            "pictures": [layer in row.inputs for layer in Layer],
            "prompts": [has_own_prompt(row, layer) for layer in Layer],
        }
        for row in METHODS.values()
    }
    families = {family.value: _line(wording.wrong_model(family), loud=True) for family in Family}
    facts = {
        "methods": methods,
        "families": {**families, wording.NO_FAMILY: _line(wording.NO_METHODS, loud=True)},
        "missing": [_line(wording.missing(layer), loud=True) for layer in Layer],
        "frame": _framed("|").split("|"),
    }
    return _FOLLOW.replace("FACTS", json.dumps(facts))


def example_script() -> str:
    """(name of an example, family) -> method, prompt, negative prompt, prompts by layer."""
    examples = {
        example.name: {
            "methods": {family.value: row.label for family in Family if (row := example.method_of(family)) is not None},
            "values": [example.prompt, example.negative, *[example.prompts.get(layer, "") for layer in Layer]],
        }
        for example in EXAMPLES
    }
    return _FILL_IN.replace("EXAMPLES", json.dumps(examples))


def _line(text: str, *, loud: bool = False) -> str:
    return f"<div><strong>{text}</strong></div>" if loud else f"<div>{text}</div>"


def _framed(lines: str) -> str:
    return f'<div style="{_NOTE_HEIGHT}">{lines}</div>'
