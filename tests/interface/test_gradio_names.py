"""Pages on gradio 3, whose events and menus have other names."""

from __future__ import annotations

import importlib

import gradio as gr
import pytest

from lib_layerdiffusion.interface import gradio_names


@pytest.fixture
def old_gradio(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(gr, "on")
        yield importlib.reload(gradio_names)
    importlib.reload(gradio_names)


def test_gradio_4_is_asked_as_it_is():
    assert gradio_names.js("f") == {"js": "f"}
    assert gradio_names.choices([("shown", "value")]) == [("shown", "value")]


def test_gradio_3_gets_its_own_names(old_gradio):
    calls = []

    def trigger(fn, inputs, outputs, *, _js):
        calls.append((fn, inputs, outputs, _js))

    old_gradio.on([trigger, trigger], ["in"], ["out"], "script")
    assert calls == [(None, ["in"], ["out"], "script")] * 2
    assert old_gradio.js("f") == {"_js": "f"}
    assert old_gradio.choices([("shown", "value")]) == ["value"]
