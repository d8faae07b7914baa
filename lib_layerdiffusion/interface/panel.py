"""The gradio panel, built from the method table and the table of settings; it knows no host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import gradio as gr
from gradio.context import Context

from lib_layerdiffusion.interface import wording
from lib_layerdiffusion.interface.controls import control
from lib_layerdiffusion.interface.gradio_names import choices, js, on
from lib_layerdiffusion.interface.panel_follow import example_script, follow_script, has_own_prompt, note
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod
from lib_layerdiffusion.settings.examples import examples_of
from lib_layerdiffusion.settings.fields import FIELDS, SettingField

_ROWS = {row.name: row for row in FIELDS}
ElemId = Callable[[str], str]


class PictureInput(Protocol):
    """Makes the host's component for a picture with alpha, inside the current gradio context."""

    def __call__(self, *, elem_id: str) -> Any:
        """Returns the component whose value reaches the script."""
        ...


@dataclass(frozen=True)
class Panel:
    """The finished panel.

    components: by setting, in the order of `FIELDS`. family: hidden, of the loaded model, "" where it is not known.
    example: menu of examples.
    """

    components: Mapping[str, Any]
    family: Any
    example: Any

    @property
    def inputs(self) -> list[Any]:
        """Components in the order in which a script takes its arguments."""
        return [self.components[row.name] for row in FIELDS]

    @property
    def of_model(self) -> list[Any]:
        """What depends on the loaded model, in the order of `for_model`."""
        return [self.components["method"], self.family, self.example]


def build(
    accordion: Callable[..., AbstractContextManager[Any]],
    picture: PictureInput,
    elem_id: ElemId,
    *,
    prompt: Any = None,
    negative: Any = None,
) -> Panel:
    """Lay out the panel in the current gradio context.

    accordion: makes a container that is itself the component of "Enabled". picture: makes the component of a picture.
    elem_id: name of a setting -> id in the page. prompt, negative: the host's boxes, which examples fill.
    """
    made: dict[str, Any] = {}
    default = cast("LayerMethod", _ROWS["method"].default)
    with accordion(value=False, label=wording.TITLE, elem_id=elem_id("enabled")) as made["enabled"]:
        made["method"] = gr.Dropdown(
            label=_ROWS["method"].label, choices=list(METHODS), value=default.label, elem_id=elem_id("method")
        )
        outcome = gr.HTML(note(default), elem_id=elem_id("outcome"))
        _row(made, elem_id, "weight", "stop_at")
        columns = _pictures(made, default, picture, elem_id)
        with gr.Group(visible=bool(default.inputs)) as resize:
            _add(made, elem_id, "resize_mode")
        for layer, row in _layer_rows("prompts"):
            _add(made, elem_id, row.name, visible=has_own_prompt(default, layer))
        _decoding(made, elem_id)
        example = gr.Dropdown(
            label=wording.EXAMPLE,
            info=wording.EXAMPLE_HELP,
            choices=[row.name for row in examples_of(None)],
            value=None,
            elem_id=elem_id("example"),
        )
        family = gr.Textbox("", visible=False, elem_id=elem_id("family"))
    finished = Panel(made, family, example)
    for part in (family, example):
        part.do_not_save_to_config = True  # hosts that remember the values of their forms look for this
    _follow(finished, [outcome, *columns, resize])
    _offer(finished, prompt, negative)
    return finished


def for_model(family: Family | None, label: str | None, *, known: bool = True) -> list[Any]:
    """Updates of `Panel.of_model` for a model: its methods first and the others marked.

    family: None where no method is made for the model. label: of the method that is chosen; one of another family gives
    way to the model's own method of the same kind. known: whether it is known what the model is at all.
    """
    own = [row for row in METHODS.values() if row.family is family]
    others = [row for row in METHODS.values() if row.family is not family]
    pairs = [(row.label, row.label) for row in own]
    pairs += [(wording.marked(row) if known else row.label, row.label) for row in others]
    chosen = METHODS.get(label or "")
    # One of the model's own is not set again: an answer that comes late would undo what was chosen meanwhile.
    same = [row.label for row in own if chosen is not None and chosen not in own and row.name == chosen.name]
    shown = choices(pairs)
    method = gr.update(choices=shown, value=same[0]) if same else gr.update(choices=shown)
    named = (family.value if family else wording.NO_FAMILY) if known else ""
    return [method, named, gr.update(choices=[row.name for row in examples_of(family)])]


def _add(made: dict[str, Any], elem_id: ElemId, name: str, **more: Any) -> None:
    row = _ROWS[name]
    component, arguments = control(row)
    value = row.kind.to_json(row.default)
    made[name] = component(value=value, label=row.label, info=row.help, elem_id=elem_id(name), **{**arguments, **more})


def _row(made: dict[str, Any], elem_id: ElemId, *names: str) -> None:
    with gr.Row():
        for name in names:
            _add(made, elem_id, name)


def _layer_rows(attribute: str) -> list[tuple[Layer, SettingField]]:
    return [(row.layer, row) for row in FIELDS if row.attribute == attribute and row.layer is not None]


def _pictures(made: dict[str, Any], method: LayerMethod, picture: PictureInput, elem_id: ElemId) -> list[Any]:
    columns = []
    with gr.Row():
        for layer, row in _layer_rows("pictures"):
            # Canvas and label are hidden together; a canvas alone cannot be.
            with gr.Column(visible=layer in method.inputs, elem_id=elem_id(f"{row.name}_group")) as column:
                gr.Markdown(row.label)
                made[row.name] = picture(elem_id=elem_id(row.name))
            columns.append(column)
    return columns


def _decoding(made: dict[str, Any], elem_id: ElemId) -> None:
    with gr.Accordion(wording.DECODING, open=False, elem_id=elem_id("decoding")):
        _add(made, elem_id, "decode_passes")
        _add(made, elem_id, "latent_scale")
        _row(made, elem_id, "preview", "output_origin", "prompt_aid")
    with gr.Accordion(wording.EDGES, open=False, elem_id=elem_id("edges")):
        _row(made, elem_id, "edge_cleanup", "alpha_low", "alpha_high")
        for name in [row.name for row in FIELDS if row.name not in made]:
            _add(made, elem_id, name)  # a setting that has no place of its own yet


def _follow(panel: Panel, places: list[Any]) -> None:
    """Show what the chosen method needs and nothing else, and say what is missing. places: note, columns, resize."""
    method = panel.components["method"]
    pictures = [panel.components[row.name] for _, row in _layer_rows("pictures")]
    prompts = [panel.components[row.name] for _, row in _layer_rows("prompts")]
    inputs, outputs = [method, panel.family, *pictures], [*places, *prompts]
    triggers = [part.change for part in inputs]
    if Context.root_block is not None:  # hosts put remembered values into a panel that is built
        triggers.append(Context.root_block.load)
    on(triggers, inputs, outputs, follow_script())


def _offer(panel: Panel, prompt: Any, negative: Any) -> None:
    prompts = [panel.components[row.name] for _, row in _layer_rows("prompts")]
    given = [prompt if prompt is not None else gr.Textbox(visible=False) for prompt in (prompt, negative)]
    outputs = [panel.components["method"], *given, *prompts]
    panel.example.input(None, [panel.example, panel.family], outputs, **js(example_script()))
