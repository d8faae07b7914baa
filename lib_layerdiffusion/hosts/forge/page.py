"""What the panel is connected with on the host's page: prompts, results and the menu of checkpoints.

Parts are recognised by their ids when the host makes them. A host without one of them has a page without what belongs
to it, and works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.context import Context

from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.hosts.forge.checkpoints import chosen_family
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.interface import panel, wording
from lib_layerdiffusion.interface.gradio_names import js
from lib_layerdiffusion.methods import METHODS, Layer

LAST_ON_PAGE = "footer"
"""Id of something that the host makes after both tabs and the menu of checkpoints."""
_SELECTED = "(results, _, method) => [results, selected_gallery_index(), method]"
_SHOW_IF_ENABLED = "(enabled) => ({__type__: 'update', visible: enabled})"


class TabPage:
    """One tab's page. tab: "txt2img" or "img2img"."""

    def __init__(self, tab: str) -> None:
        self.tab = tab
        self.panel: panel.Panel | None = None
        self._parts: dict[str, Any] = {}

    def elem_id(self, name: str) -> str:
        """Id of a control of the panel."""
        return f"layerdiffusion_{self.tab}_{name}"

    def build(self, accordion: Any, picture: Any) -> panel.Panel:
        """Lay out the panel; the host has made its prompts by now."""
        prompts = {"prompt": self._parts.get("prompt"), "negative": self._parts.get("neg_prompt")}
        self.panel = panel.build(accordion, picture, self.elem_id, **prompts)
        return self.panel

    def see(self, component: Any) -> None:
        """Take note of a part that the host has just made; below the results come our buttons."""
        elem_id = str(getattr(component, "elem_id", None) or "")
        for part in ("prompt", "neg_prompt", "gallery"):
            if elem_id == f"{self.tab}_{part}":
                self._parts[part] = component
        if elem_id == f"download_files_{self.tab}" and self.panel is not None and "gallery" in self._parts:
            self._add_buttons(self.panel, self._parts["gallery"])

    def _add_buttons(self, made: panel.Panel, gallery: Any) -> None:
        enabled, method = made.components["enabled"], made.components["method"]
        with gr.Row(visible=bool(enabled.value), elem_id=self.elem_id("next_step")) as row:
            index = gr.Number(0, visible=False)
            for layer in Layer:
                name = wording.use_as(layer)
                button = gr.Button(name, size="sm", min_width=120, elem_id=self.elem_id(f"use_as_{layer}"))
                button.do_not_save_to_config = True
                button.webui_tooltip = wording.use_as_help(layer)  # the host shows it where the pointer rests
                button.click(
                    partial(take_to_next_step, layer),
                    [gallery, index, method],
                    [made.components[layer.value], method],
                    show_progress="hidden",
                    api_name=False,
                    **js(_SELECTED),
                )
        enabled.change(None, [enabled], [row], **js(_SHOW_IF_ENABLED))


def take_to_next_step(
    layer: Layer, results: Sequence[tuple[Any, Any]] | None, index: float, label: str
) -> tuple[Picture, str]:
    """The chosen result as a picture, and the label of the method that goes on from it.

    results: of the host's gallery, pictures with captions. index: of the chosen one, below 0 for none.
    """
    if not results:
        raise gr.Error("There is no picture to use yet: generate one first.")
    done = METHODS[label]
    method = METHODS.next_step(done, layer)
    if method is None:
        raise gr.Error(f"No {done.family} method goes on from here with a {layer} picture.")
    return webui.gallery_picture(results, int(index)), method.label


def follow_checkpoint(pages: Iterable[TabPage], menu: Any) -> None:
    """Let the panels follow the menu of checkpoints; called where the whole page is laid out. menu: None for none."""
    panels = [page.panel for page in pages if page.panel is not None]
    if not panels or menu is None or Context.root_block is None:
        return
    outputs = [part for made in panels for part in made.of_model]
    methods = [made.components["method"] for made in panels]
    quietly = {"show_progress": "hidden", "queue": False, "api_name": False}
    Context.root_block.load(_for_checkpoint, [menu, *methods], outputs, **quietly)
    menu.change(_for_checkpoint, [menu, *methods], outputs, **quietly)


def _for_checkpoint(name: str | None, *labels: str | None) -> list[Any]:
    family, known = chosen_family(name)
    return [update for label in labels for update in panel.for_model(family, label, known=known)]
