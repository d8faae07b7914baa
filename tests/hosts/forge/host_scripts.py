"""Arguments of real hosts' own scripts, by name: hosts differ in how many there are and in their order."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

NEURAL = "a neural upscaler (ESRGAN)"
"""Stands for the upscaler that tests add to the host's list."""
Named = tuple[str, list[Any]]
"""Title of a script in lower case, and its arguments."""


def _by_title(runners: Iterable[Any], title: str) -> Any | None:
    return next((script for script in runners if script.title().lower() == title), None)


def selectable(title: str, *, img2img: bool = False) -> Any:
    """A script of the list at the foot of a tab; the test is skipped where the host has none of this title."""
    from modules import scripts

    runner = scripts.scripts_img2img if img2img else scripts.scripts_txt2img
    script = _by_title(runner.selectable_scripts, title)
    return script if script is not None else pytest.skip(f"this host has no {title}")


def _arguments(script: Any, values: dict[str, Any], otherwise: Any = None) -> list[Any]:
    return [values.get(name, otherwise) for name in list(inspect.signature(script.run).parameters)[1:]]


def plot(x_type: int = 0, *, texts: str = "", listed: Sequence[str] = (), legend: bool = False) -> Named:
    """The X/Y/Z plot over values along X, with each cell's picture. listed: values of an axis that is a menu."""
    values: dict[str, Any] = {
        "x_type": x_type, "x_values": texts, "y_type": 0, "y_values": "", "z_type": 0, "z_values": "",
        "x_values_dropdown": list(listed), "y_values_dropdown": [], "z_values_dropdown": [],
        "draw_legend": legend, "include_lone_images": True, "margin_size": 0, "items_per_grid": 0, "row_count": 0,
    }  # fmt: skip
    return "x/y/z plot", _arguments(selectable("x/y/z plot"), values, False)


def axis_number(label: str) -> int:
    """Of an axis in the X/Y/Z plot of the first tab."""
    from modules import scripts

    module = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
    options = [one for one in module.axis_options if type(one) is module.AxisOption or not one.is_img2img]
    return next(number for number, one in enumerate(options) if one.label == label)


def sd_upscale(upscaler: str, factor: float, overlap: int) -> Named:
    from modules import shared

    number = [one.name for one in shared.sd_upscalers].index(upscaler)
    values = {"overlap": overlap, "upscaler_index": number, "scale_factor": factor, "override": False}
    return "sd upscale", _arguments(selectable("sd upscale", img2img=True), values)


OUTPAINTED = 64
"""Pixels that outpainting adds at one side."""


def outpainting(title: str) -> Named:
    """Outpainting mk2 or Poor man's outpainting, to the left."""
    values = {"pixels": OUTPAINTED, "mask_blur": 4, "direction": ["left"], "noise_q": 1.0, "color_variation": 0.05}
    values |= {"inpainting_fill": 0}
    return title.lower(), _arguments(selectable(title.lower(), img2img=True), values)


def own_upscale(upscaler: str, factor: float) -> Named:
    """The host's Upscale of the Extras tab, where it stands on the main tabs."""
    from modules import scripts

    script = _by_title(scripts.scripts_txt2img.alwayson_scripts, "upscale")
    if script is None:
        pytest.skip("this host has no Upscale on its main tabs")
    values = {"upscale_enabled": True, "upscale_by": factor, "upscaler_1_name": upscaler, "upscaler_2_name": "None"}
    return "upscale", [values.get(name, 0) for name in script.postprocessing_controls]


def is_on_the_second_tab_alone(title: str) -> bool:
    """Whether a script that stands on its tab in any case is on image-to-image and not on the first tab."""
    from modules import scripts

    first, second = scripts.scripts_txt2img.alwayson_scripts, scripts.scripts_img2img.alwayson_scripts
    return _by_title(first, title) is None and _by_title(second, title) is not None
