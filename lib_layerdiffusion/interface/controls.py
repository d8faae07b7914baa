"""Which gradio component shows a setting; the panel and a host's settings page ask here."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from lib_layerdiffusion.settings.fields import SettingField

_STEP = 0.01


def control(row: SettingField) -> tuple[Any, dict[str, Any]]:
    """The component's class and its arguments but label and value, from what the setting's schema allows."""
    schema = cast("dict[str, Any]", row.kind.schema)
    kind = schema["type"]
    if kind == "boolean":
        return gr.Checkbox, {}
    if "enum" in schema:
        return gr.Radio, {"choices": list(schema["enum"])}
    if kind == "number":
        return gr.Slider, {"minimum": float(schema["minimum"]), "maximum": float(schema["maximum"]), "step": _STEP}
    return gr.Textbox, {"lines": 1}
