"""The compose tool: a foreground, moved and scaled, over a background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.files import write_png
from lib_layerdiffusion.images.layerfile import ENDINGS, check_ending, save_layers
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.page import ID
from lib_layerdiffusion.page.jobs import Jobs, told
from lib_layerdiffusion.page.style import GROUND_CLASS, file_list

SRGB, LINEAR = "colour values, as editors do", "light, as a camera sees it"


def picture_box(*, elem_id: str, label: str | None = None) -> Any:
    """Takes a picture as the file it is: gradio would convert, without a word, what it cannot read."""
    box = gr.Image(
        label=label,
        show_label=label is not None,
        sources=["upload", "clipboard"],
        height=240,
        elem_id=elem_id,
        elem_classes=[GROUND_CLASS],
    )
    box.preprocess = _content
    return box


def _content(payload: Any) -> bytes | None:
    return None if payload is None else Path(payload.path).read_bytes()


def compose_tab(jobs: Jobs, finished: Any) -> None:
    """Lay the tool out in the current gradio context. finished: State of the last run."""
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Row():
                foreground = picture_box(elem_id=f"{ID}_compose_foreground", label="Foreground")
                background = picture_box(elem_id=f"{ID}_compose_background", label="Background")
            take = gr.Button("Take the layers of the last result", size="sm", elem_id=f"{ID}_compose_take")
            with gr.Row(elem_classes=[f"{ID}_numbers"]):
                left = gr.Number(0, label="Move right", precision=0, min_width=90, elem_id=f"{ID}_compose_left")
                top = gr.Number(0, label="Move down", precision=0, min_width=90, elem_id=f"{ID}_compose_top")
                scale = gr.Number(1, label="Scale", step=0.05, min_width=90, elem_id=f"{ID}_compose_scale")
            blending = gr.Radio((SRGB, LINEAR), value=SRGB, label="Blend", elem_id=f"{ID}_compose_blending")
            start = gr.Button("Compose", variant="primary", elem_id=f"{ID}_compose")
        with gr.Column(min_width=300, elem_id=f"{ID}_composed_right"):
            composed = gr.Image(
                label="Composed",
                type="filepath",
                format="png",
                interactive=False,
                height="auto",
                elem_id=f"{ID}_composed",
                elem_classes=[GROUND_CLASS],
            )
            files = file_list(f"{ID}_composed_files")
    take.click(jobs.layers_to_compose, [finished], [foreground, background], api_name=False)
    inputs = [foreground, background, left, top, scale, blending]

    def run(*values: Any) -> tuple[str, list[str]]:
        with told():
            return _composed(jobs.new_folder(), *values)

    start.click(run, inputs, [composed, files], scroll_to_output=True, api_name=False)


def _composed(
    folder: Path,
    foreground: object,
    background: object,
    left: float | None,
    top: float | None,
    scale: float | None,
    blending: str,
) -> tuple[str, list[str]]:
    """The composed picture's path, and those of all files: layers too, where editors blend in the same way.

    Raises:
        LayerDiffusionError: a picture is missing or cannot be used, or a number is out of range.
    """
    upper, below = _needed(foreground, "foreground"), _needed(background, "background")
    if scale is None:
        raise SettingsError("Scale is empty: 1 leaves the foreground as large as it is.")
    x, y = int(left or 0), int(top or 0)
    linear = blending == LINEAR
    merged = folder / "composed.png"
    write_png(merged, compose.place(upper, below, left=x, top=y, scale=scale, linear=linear))
    files = [str(merged)]
    if not linear:
        layers = [
            compose.Layer("background", below),
            compose.Layer("foreground", compose.scaled(upper, scale), x, y),
        ]
        for ending in endings():
            save_layers(folder / f"composed{ending}", layers, below.shape[:2])
            files.append(str(folder / f"composed{ending}"))
    return str(merged), files


def _needed(value: object, name: str) -> Picture:
    picture = read_picture(value, name)
    if picture is None:
        raise InputError(f"There is no {name} to compose: put a picture into it.")
    return picture


def endings() -> tuple[str, ...]:
    """Kinds of layered files that can be written on this machine."""
    return tuple(ending for ending in ENDINGS if _can_write(ending))


def _can_write(ending: str) -> bool:
    try:
        check_ending(ending)
    except LayerDiffusionError:
        return False
    return True
