"""The components that settings get."""

from __future__ import annotations

import gradio as gr
import pytest

from lib_layerdiffusion.interface.controls import control
from lib_layerdiffusion.settings.fields import FIELDS

ROWS = {row.name: row for row in FIELDS}


@pytest.mark.parametrize(
    ("name", "component", "arguments"),
    [
        ("preview", gr.Checkbox, {}),
        ("weight", gr.Slider, {"minimum": 0.0, "maximum": 2.0, "step": 0.01}),
        ("alpha_high", gr.Slider, {"minimum": 0.55, "maximum": 1.0, "step": 0.01}),
        ("decode_passes", gr.Radio, {"choices": [8, 4, 2, 1]}),
        ("resize_mode", gr.Radio, {"choices": ["Just Resize", "Crop and Resize", "Resize and Fill"]}),
        ("foreground_prompt", gr.Textbox, {"lines": 1}),
    ],
)
def test_a_control_allows_what_the_setting_takes(name, component, arguments):
    assert control(ROWS[name]) == (component, arguments)
