"""The panel inside a minimal host page, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.images.reading import read_picture
from lib_layerdiffusion.interface import panel
from lib_layerdiffusion.methods import METHODS, Family
from lib_layerdiffusion.settings.parsing import LayerSettings
from tests.pages.browser import choose, free_port, overflow, said, set_number, upload, visit

pytestmark = pytest.mark.skipif(
    int(gr.__version__.split(".")[0]) > 4, reason="the panel lives in hosts, whose gradio is 3 or 4"
)

PICTURES = ("background", "blended", "foreground")
# Label -> condition pictures, layers with a prompt of their own. By hand, so that the table is checked as well.
NEEDS = {
    "(SD1.5) Only Generate Transparent Image (Attention Injection)": ((), ()),
    "(SD1.5) From Foreground to Background (need batch size 2)": (("foreground",), ("background", "blended")),
    "(SD1.5) From Background to Foreground (need batch size 2)": (("background",), ("foreground", "blended")),
    "(SD1.5) Generate Everything Together (need batch size 3)": ((), PICTURES),
    "(SDXL) Only Generate Transparent Image (Attention Injection)": ((), ()),
    "(SDXL) Only Generate Transparent Image (Conv Injection)": ((), ()),
    "(SDXL) From Foreground to Blending": (("foreground",), ()),
    "(SDXL) From Foreground and Blending to Background": (("foreground", "blended"), ()),
    "(SDXL) From Background to Blending": (("background",), ()),
    "(SDXL) From Background and Blending to Foreground": (("background", "blended"), ()),
}


def launched(host: gr.Blocks) -> Iterator[str]:
    """The address of a host page, for a fixture."""
    _, url, _ = host.launch(
        server_port=free_port(), _frontend=False, prevent_thread_lock=True, quiet=True, show_api=False
    )
    yield url
    host.close(verbose=False)


@contextmanager
def accordion(*, value: bool, label: str, elem_id: str) -> Iterator[Any]:
    """As a host's: a checkbox that is a container."""
    checkbox = gr.Checkbox(value=value, label=label, elem_id=elem_id)
    with gr.Accordion(label, open=True):
        yield checkbox


def picture(*, elem_id: str) -> Any:
    return gr.Image(type="pil", image_mode="RGBA", elem_id=elem_id)


def read(*values: Any) -> str:
    try:
        settings = LayerSettings.from_args(values)
        if settings.enabled:
            settings.condition_pictures()
    except LayerDiffusionError as error:
        raise gr.Error(str(error)) from error
    return json.dumps(settings.to_mapping())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    fonts = {"font": ["sans-serif"], "font_mono": ["monospace"]}
    with gr.Blocks(gr.themes.Default(**fonts), analytics_enabled=False) as host:
        prompt, negative = (gr.Textbox(label=name, elem_id=name) for name in ("prompt", "negative"))
        made = panel.build(accordion, picture, lambda name: f"layerdiffusion_{name}", prompt=prompt, negative=negative)
        for family in (*Family, None):
            load = gr.Button(f"Load {family}", elem_id=f"load_{family}")
            load.click(partial(panel.for_model, family), made.components["method"], made.of_model)
        button = gr.Button("Read", elem_id="read")
        answer = gr.Textbox(elem_id="answer")
        button.click(read, made.inputs, answer)
    yield from launched(host)


@pytest.fixture
def remembering() -> Iterator[str]:
    """A host that puts a remembered method into the panel when that is built."""
    with gr.Blocks(gr.themes.Default(font=["sans-serif"], font_mono=["monospace"]), analytics_enabled=False) as host:
        made = panel.build(accordion, picture, lambda name: f"layerdiffusion_{name}")
        made.components["method"].value = list(NEEDS)[3]
    yield from launched(host)


def shown(page: Any, name: str) -> bool:
    return page.locator(f"#layerdiffusion_{name}").is_visible()


def outcome(page: Any) -> str:
    """What stands under Method."""
    return page.inner_text("#layerdiffusion_outcome")


def top(page: Any, name: str) -> float:
    """Distance of a control from the top of the page, in pixels."""
    return page.locator(f"#layerdiffusion_{name}").bounding_box()["y"] + page.evaluate("window.scrollY")


def settled(page: Any, check: Callable[[], bool], message: str) -> None:
    """The server's answer changes one control after the other."""
    for _ in range(200):
        if check():
            return
        page.wait_for_timeout(100)
    raise AssertionError(message)


def settings_of(page: Any) -> dict[str, Any]:
    page.click("#read")
    page.wait_for_function("document.querySelector('#answer textarea').value.startsWith('{')")
    return json.loads(page.input_value("#answer textarea"))


def test_only_the_controls_of_the_chosen_method_are_there(browser, address):
    assert list(NEEDS) == list(METHODS)
    with visit(browser, address) as opened:
        page = opened.page
        places = set()
        for label, (pictures, prompts) in reversed(NEEDS.items()):
            choose(page, "layerdiffusion_method", label)
            wanted = {name: name in pictures for name in PICTURES}
            wanted |= {f"{name}_prompt": name in prompts for name in PICTURES}
            wanted["resize_mode"] = bool(pictures)
            settled(page, lambda wanted=wanted: {name: shown(page, name) for name in wanted} == wanted, label)
            said_of_it = outcome(page)
            assert said_of_it.startswith(f"Gives {METHODS[label].outcome}.")
            assert [name for name in PICTURES if f"missing: a {name} picture" in said_of_it] == sorted(pictures)
            places.add((top(page, "method"), top(page, "weight")))
        assert len(places) == 1  # nothing jumps


def test_a_remembered_method_has_its_controls_when_the_page_opens(browser, remembering):
    with visit(browser, remembering) as opened:
        page = opened.page
        page.wait_for_selector("#layerdiffusion_blended_prompt", state="visible")
        assert outcome(page) == f"Gives {METHODS[list(NEEDS)[3]].outcome}."


def test_a_picture_that_is_given_is_no_longer_missing(browser, address, tmp_path: Path):
    Image.new("RGBA", (24, 40), "red").save(tmp_path / "red.png")
    with visit(browser, address) as opened:
        page = opened.page
        choose(page, "layerdiffusion_method", "(SDXL) From Background and Blending to Foreground")
        upload(page, "layerdiffusion_background", tmp_path / "red.png")
        settled(page, lambda: "a background picture" not in outcome(page), outcome(page))
        assert "Still missing: a blended picture." in outcome(page)


def test_an_example_fills_in_prompts_and_method(browser, address):
    with visit(browser, address) as opened:
        page = opened.page
        page.check("#layerdiffusion_enabled input")
        choose(page, "layerdiffusion_example", "Dog in a street, all layers")
        page.wait_for_selector("#layerdiffusion_background_prompt", state="visible")
        found = settings_of(page)
        assert found["method"] == "(SD1.5) Generate Everything Together (need batch size 3)"
        assert [found[f"{name}_prompt"] for name in PICTURES] == ["street", "dog running in street", "dog running"]
        assert page.input_value("#prompt textarea") == "high quality, 4k"
        assert page.input_value("#negative textarea") == "nsfw, bad, ugly"
        page.click("#load_SD1\\.5")
        choose(page, "layerdiffusion_example", "Apple")
        settled(page, lambda: settings_of(page)["method"] == next(iter(NEEDS)), "the family's own method")
        assert settings_of(page)["background_prompt"] == ""


def test_methods_of_the_loaded_model_come_first(browser, address):
    with visit(browser, address) as opened:
        page = opened.page

        def chosen() -> str:
            return page.input_value("#layerdiffusion_method input")

        assert chosen().startswith("(SDXL) Only Generate")
        page.click("#load_SD1\\.5")
        settled(page, lambda: chosen() == next(iter(NEEDS)), "the same in SD1.5")
        page.click("#layerdiffusion_method input")
        shown_labels = page.locator("[role=option]").all_inner_texts()
        assert [text.removeprefix("✓").strip() for text in shown_labels] == [
            label if label.startswith("(SD1.5)") else f"{label} - not for this model" for label in NEEDS
        ]
        page.keyboard.press("Escape")
        page.click("#load_SDXL")
        settled(page, lambda: chosen() == list(NEEDS)[4], "and back")
        choose(page, "layerdiffusion_method", "(SDXL) From Foreground to Blending")
        page.click("#load_SD1\\.5")
        settled(page, lambda: "not made for SD1.5 models" in outcome(page), outcome(page))
        assert chosen().startswith("(SDXL) From Foreground to Blending")
        page.click("#load_None")
        settled(page, lambda: "No method is made for the loaded model" in outcome(page), outcome(page))


def test_what_is_set_on_the_page_arrives_in_the_settings(browser, address, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut-out.png")
    label = "(SD1.5) From Foreground to Background (need batch size 2)"
    with visit(browser, address) as opened:
        page = opened.page
        page.check("#layerdiffusion_enabled input")
        choose(page, "layerdiffusion_method", label)
        set_number(page, "layerdiffusion_weight", 0.75)
        set_number(page, "layerdiffusion_stop_at", 0.4)
        page.wait_for_selector("#layerdiffusion_background_prompt", state="visible")
        page.fill("#layerdiffusion_background_prompt textarea", "a table")
        page.check("#layerdiffusion_resize_mode input[value='Resize and Fill']")
        page.click("#layerdiffusion_edges button")
        set_number(page, "layerdiffusion_edge_cleanup", 0.5)
        set_number(page, "layerdiffusion_alpha_low", 0.1)
        page.click("#layerdiffusion_decoding button")
        page.check("#layerdiffusion_prompt_aid input")
        page.check("#layerdiffusion_decode_passes input[value='2']")
        page.uncheck("#layerdiffusion_preview input")
        upload(page, "layerdiffusion_foreground", tmp_path / "cut-out.png")
        found = settings_of(page)
    assert np.array_equal(read_picture(found.pop("foreground"), "foreground"), pixels)
    expected = {"enabled": True, "method": label, "weight": 0.75, "stop_at": 0.4, "background_prompt": "a table"}
    expected |= {"resize_mode": "Resize and Fill", "decode_passes": 2, "preview": False}
    expected |= {"edge_cleanup": 0.5, "alpha_low": 0.1, "alpha_high": 1.0, "prompt_aid": True}
    assert {name: found[name] for name in expected} == expected
    assert (found["background"], found["blended"], found["foreground_prompt"]) == (None, None, "")


def test_a_missing_picture_is_named_on_the_page(browser, address):
    with visit(browser, address) as opened:
        page = opened.page
        page.check("#layerdiffusion_enabled input")
        choose(page, "layerdiffusion_method", "(SDXL) From Background and Blending to Foreground")
        page.click("#read")
        assert "needs a background picture and a blended picture" in said(page)


def test_a_switched_off_panel_needs_nothing(browser, address):
    with visit(browser, address) as opened:
        page = opened.page
        choose(page, "layerdiffusion_method", "(SDXL) From Foreground to Blending")
        assert settings_of(page)["enabled"] is False


@pytest.mark.parametrize("label", [list(NEEDS)[3], list(NEEDS)[7]])
def test_the_panel_fits_a_telephone(browser, address, label):
    with visit(browser, address, width=390, height=844) as opened:
        page = opened.page
        choose(page, "layerdiffusion_method", label)
        for name in [f"{layer}_prompt" for layer in NEEDS[label][1]] or NEEDS[label][0]:
            page.wait_for_selector(f"#layerdiffusion_{name}", state="visible")
        assert overflow(page) <= 0
