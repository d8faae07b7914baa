"""Translations: none is missing, none is left over, and what the panel shows is what was translated."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest

from lib_layerdiffusion.interface import panel
from lib_layerdiffusion.interface.panel_follow import note
from lib_layerdiffusion.interface.wording import TITLE, every_text
from lib_layerdiffusion.methods import METHODS, Family

FILES = sorted((Path(__file__).parents[2] / "localizations").glob("*.json"))
# The host leaves such text alone, so it could not be translated.
UNTRANSLATABLE = re.compile(r"[\d.]+|.*[\U0001F300-\U0001FAFF\u2600-\u27BF].*")


def texts_in(html: str) -> set[str]:
    return {text.strip() for text in re.split(r"<[^>]*>", html) if text.strip()}


def test_both_languages_are_there():
    assert [path.stem for path in FILES] == ["ja_JP", "zh_CN"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_text_is_translated(path):
    translated = json.loads(path.read_text(encoding="utf-8"))
    assert set(translated) == set(every_text())
    assert [text for text, own in translated.items() if own in {text, ""}] == [TITLE]


def test_the_host_can_translate_them():
    assert [text for text in every_text() if UNTRANSLATABLE.fullmatch(text) or text != text.strip()] == []


def test_the_panel_shows_nothing_else():
    @contextmanager
    def accordion(*, value, label, elem_id):
        with gr.Accordion(label):
            yield gr.Checkbox(value=value, label=label, elem_id=elem_id)

    with gr.Blocks() as page:
        panel.build(accordion, lambda *, elem_id: gr.Image(elem_id=elem_id, show_label=False), lambda name: name)
    shown = set()
    for part in page.get_config_file()["components"]:
        values = part["props"]
        shown |= {values.get(name) for name in ("label", "info", "placeholder") if values.get("visible", True)}
        shown |= {name for name, _ in values.get("choices") or ()}
        if part["type"] in {"html", "markdown"}:
            shown |= texts_in(values["value"])
    assert {text for text in shown if text and not text.isdigit()} <= set(every_text())


@pytest.mark.parametrize("family", [*Family, None])
def test_so_it_is_when_it_follows_the_model(family):
    method, _, example = panel.for_model(family, None)
    assert {name for name, _ in method["choices"]} <= set(every_text())
    assert {name[0] if isinstance(name, tuple) else name for name in example["choices"]} <= set(every_text())
    for row in METHODS.values():
        lines = texts_in(note(row, family=family))
        assert lines <= set(every_text())
        assert len(lines) == 1 + len(row.inputs) + (family not in (None, row.family))
