"""The gradio panel, built from the method table and the table of settings; it knows no host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import gradio as gr

from lib_layerdiffusion.fields import FIELDS, PASS_COUNTS, LatentScale, SettingField
from lib_layerdiffusion.images import ResizeMode
from lib_layerdiffusion.methods import METHODS, Layer, LayerMethod, Technique

_ROWS = {row.name: row for row in FIELDS}


class PictureInput(Protocol):
    """Makes the host's component for a picture with alpha, inside the current gradio context."""

    def __call__(self, *, elem_id: str) -> Any:
        """Returns the component whose value reaches the script."""
        ...


@dataclass(frozen=True)
class Panel:
    """The finished panel. components: by setting, in the order of `FIELDS`."""

    components: Mapping[str, Any]

    @property
    def inputs(self) -> list[Any]:
        """Components in the order in which a script takes its arguments."""
        return [self.components[row.name] for row in FIELDS]


def build(
    accordion: Callable[..., AbstractContextManager[Any]], picture: PictureInput, elem_id: Callable[[str], str]
) -> Panel:
    """Lay out the panel in the current gradio context.

    accordion: makes a container that is itself the component of "Enabled". picture: makes the component of a picture.
    elem_id: name of a setting -> id in the page.
    """
    made: dict[str, Any] = {}
    with accordion(value=False, label="LayerDiffusion", elem_id=elem_id("enabled")) as made["enabled"]:
        default = cast("LayerMethod", _ROWS["method"].default)
        made["method"] = gr.Dropdown(
            label=_ROWS["method"].label, choices=list(METHODS), value=default.label, elem_id=elem_id("method")
        )
        outcome = gr.Markdown(_described(default), elem_id=elem_id("outcome"))
        with gr.Row():
            made["weight"] = _slider("weight", 2.0, 0.01, elem_id)
            made["stop_at"] = _slider("stop_at", 1.0, 0.01, elem_id)
        groups = _pictures(made, default, picture, elem_id)
        resize = gr.Group(visible=bool(default.inputs))
        with resize:
            made["resize_mode"] = _radio("resize_mode", [mode.value for mode in ResizeMode], elem_id)
        prompts = _prompts(made, default, elem_id)
        _decoding(made, elem_id)
    _follow_method(made["method"], outcome, groups, resize, prompts)
    return Panel(made)


def _slider(name: str, maximum: float, step: float, elem_id: Callable[[str], str]) -> Any:
    row = _ROWS[name]
    return gr.Slider(
        minimum=0.0,
        maximum=maximum,
        step=step,
        value=cast("float", row.default),
        label=row.label,
        info=row.help,
        elem_id=elem_id(name),
    )


def _radio(name: str, choices: Sequence[Any], elem_id: Callable[[str], str]) -> Any:
    row = _ROWS[name]
    default = getattr(row.default, "value", row.default)
    return gr.Radio(choices=list(choices), value=default, label=row.label, info=row.help, elem_id=elem_id(name))


def _checkbox(name: str, elem_id: Callable[[str], str]) -> Any:
    row = _ROWS[name]
    return gr.Checkbox(value=bool(row.default), label=row.label, info=row.help, elem_id=elem_id(name))


def _layer_rows(attribute: str) -> list[tuple[Layer, SettingField]]:
    return [(row.layer, row) for row in FIELDS if row.attribute == attribute and row.layer is not None]


def _pictures(made: dict[str, Any], method: LayerMethod, picture: PictureInput, elem_id: Callable[[str], str]) -> Any:
    groups = {}
    with gr.Row():
        for layer, row in _layer_rows("pictures"):
            # Canvas and label are hidden together; a canvas alone cannot be.
            groups[layer] = gr.Column(visible=layer in method.inputs, elem_id=elem_id(f"{row.name}_group"))
            with groups[layer]:
                gr.Markdown(row.label)
                made[row.name] = picture(elem_id=elem_id(row.name))
    return groups


def _prompts(made: dict[str, Any], method: LayerMethod, elem_id: Callable[[str], str]) -> Any:
    boxes = {}
    for layer, row in _layer_rows("prompts"):
        boxes[layer] = made[row.name] = gr.Textbox(
            label=row.label,
            info=row.help,
            value="",
            lines=1,
            visible=_has_own_prompt(method, layer),
            elem_id=elem_id(row.name),
        )
    return boxes


def _decoding(made: dict[str, Any], elem_id: Callable[[str], str]) -> None:
    with gr.Accordion("Transparency", open=False, elem_id=elem_id("decoding")):
        made["decode_passes"] = _radio("decode_passes", PASS_COUNTS, elem_id)
        made["latent_scale"] = _radio("latent_scale", [scale.value for scale in LatentScale], elem_id)
        with gr.Row():
            made["preview"] = _checkbox("preview", elem_id)
            made["output_origin"] = _checkbox("output_origin", elem_id)


def _has_own_prompt(method: LayerMethod, layer: Layer) -> bool:
    """A prompt for each layer makes sense where one run makes several."""
    return method.technique is Technique.ATTENTION_SHARING and method.frame_count > 1 and layer in method.frames


def _described(method: LayerMethod) -> str:
    needs = " and ".join(f"a {layer} picture" for layer in method.inputs)
    return f"Gives {method.outcome}." + (f" Needs {needs}." if needs else "")


def _follow_method(method: Any, outcome: Any, groups: Mapping[Layer, Any], resize: Any, prompts: Any) -> None:
    """Show what the chosen method needs and nothing else."""

    def show(label: str) -> list[Any]:
        chosen = METHODS[label]
        return [
            gr.update(value=_described(chosen)),
            *[gr.update(visible=layer in chosen.inputs) for layer in groups],
            gr.update(visible=bool(chosen.inputs)),
            *[gr.update(visible=_has_own_prompt(chosen, layer)) for layer in prompts],
        ]

    outputs = [outcome, *groups.values(), resize, *prompts.values()]
    method.change(show, inputs=[method], outputs=outputs, show_progress="hidden")
