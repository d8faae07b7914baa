"""Every setting has a control, also one that the layout does not know yet."""

from __future__ import annotations

import gradio as gr

from lib_layerdiffusion.interface import panel
from lib_layerdiffusion.settings import FIELDS, SettingField
from lib_layerdiffusion.settings.kinds import number


def built() -> panel.Panel:
    def picture(*, elem_id: str) -> gr.Image:
        return gr.Image(elem_id=elem_id)

    def accordion(value: bool, **kwargs: object) -> gr.Accordion:
        return gr.Accordion(**kwargs)

    with gr.Blocks():
        return panel.build(accordion, picture, "test_{}".format)


def test_a_new_row_gets_a_control_at_the_end(monkeypatch):
    row = SettingField("glow", "Glow", "LayerDiffusion glow", number(0, 1), 0.25)
    rows = (*FIELDS, row)
    monkeypatch.setattr(panel, "FIELDS", rows)
    monkeypatch.setitem(panel._ROWS, "glow", row)
    made = built()
    assert len(made.inputs) == len(rows)
    assert (made.components["glow"].label, made.components["glow"].value) == ("Glow", 0.25)
