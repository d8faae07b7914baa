"""What differs between hosts above the backend: parts of the page, call-backs, and hooks that some do not have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from modules import images, prompt_parser, script_callbacks, scripts, shared
from PIL import Image

from lib_layerdiffusion.images.reading import Picture

CHECKPOINT_MENU = "setting_sd_model_checkpoint"
"""Id of the menu of checkpoints where the host's page has it among its quick settings."""
_BOX_HEIGHT = 300


def optional(module: str, name: str = "") -> Any:
    """A module of the host's, or something in it, None where the host has none."""
    try:
        found = import_module(module)
    except ImportError:
        return None
    return getattr(found, name, None) if name else found


def _takes(function: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def picture_box(*, elem_id: str) -> Any:
    """The component of a picture with alpha: the host's canvas, or gradio's own box where it has none."""
    canvas = optional("modules_forge.forge_canvas.canvas", "ForgeCanvas")
    if canvas is not None:
        return canvas(numpy=True, no_scribbles=True, height=_BOX_HEIGHT, elem_id=elem_id).background
    return gr.Image(type="numpy", image_mode="RGBA", show_label=False, height=_BOX_HEIGHT, elem_id=elem_id)


def checkpoint_menu() -> Any:
    """The menu of checkpoints above the tabs, None where the host puts it among its quick settings."""
    return optional("modules_forge.main_entry", "ui_checkpoint")


def gallery_picture(results: Any, index: int) -> Picture:
    """uint8 [H, W, 4] at `index` of what a gallery hands over: pairs of picture and caption, or names of files."""
    chosen = results[min(max(index, 0), len(results) - 1)]
    if isinstance(chosen, dict):  # gradio 3; the host knows which files may be opened
        image = optional("modules.infotext_utils", "image_from_url_text")([chosen])
    else:
        image = chosen[0]
    return np.asarray(image.convert("RGBA"))


def register(callback: Callable[..., Any], category: str, file: str) -> None:
    """Register a call-back; told the file's name, the host need not search the call stack, 50 ms each time."""
    registered = script_callbacks.callback_map[f"callbacks_{category}"]
    if _takes(script_callbacks.add_callback, "filename"):
        script_callbacks.add_callback(registered, callback, category=category, filename=file)
    else:
        script_callbacks.add_callback(registered, callback)


def script_data(file: str) -> Any:
    """What the host knows of the script that it loaded from a file of this name, None where it has none.

    Importing such a script would load it a second time.
    """
    return next((data for data in getattr(scripts, "scripts_data", ()) if Path(data.path).name == file), None)


def has_hook(name: str) -> bool:
    """Whether the host calls scripts back under this name."""
    return hasattr(scripts.ScriptRunner, name)


def resized_rgba(mode: int, image: Image.Image, width: int, height: int) -> Image.Image:
    """The host's way of fitting a picture into a size, alpha included."""
    if _takes(images.resize_image, "force_RGBA"):
        return images.resize_image(mode, image, width, height, force_RGBA=True)
    alpha = Image.merge("RGB", [image.getchannel("A")] * 3)
    colour, alpha = (images.resize_image(mode, part, width, height) for part in (image.convert("RGB"), alpha))
    return Image.merge("RGBA", [*colour.split(), alpha.getchannel(0)])


def sized_prompts(prompts: list[str], *, width: int, height: int, distilled: float | None) -> Any:
    """Prompts with the size that SDXL conditions on. distilled: guidance that some hosts keep with it."""
    given = {"width": width, "height": height, "distilled_cfg_scale": distilled}
    taken = {name: value for name, value in given.items() if _takes(prompt_parser.SdConditioning.__init__, name)}
    return prompt_parser.SdConditioning(prompts, **taken)


def multicond(sd_model: Any, prompts: Any, steps: int, hires_steps: int | None) -> Any:
    """The host's conditioning of prompts with AND and prompt editing."""
    learn = prompt_parser.get_multicond_learned_conditioning
    old = [shared.opts.use_old_scheduling] if _takes(learn, "use_old_scheduling") else []
    return learn(sd_model, prompts, steps, hires_steps, *old)


def answers_with_extra_images() -> bool:
    """Whether the host's API sends what stands in `extra_images`; it is so where there is no API to ask."""
    api = optional("modules.api.api", "Api")
    return api is None or "extra_images" in api.text2imgapi.__code__.co_names
