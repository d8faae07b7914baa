"""`layerdiffusion ui` end to end in a real browser, on an engine of random weights."""

from __future__ import annotations

import argparse
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from lib_layerdiffusion import LayerDiffusion, places
from lib_layerdiffusion.commands import ui
from lib_layerdiffusion.engine.results import LayerPicture, Result
from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost, ModelCard
from lib_layerdiffusion.hosts.diffusers.tiny import layer_files, tiny_pipeline
from lib_layerdiffusion.images.compose import merge, place
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.images.opacity import opaque_warning
from lib_layerdiffusion.methods import METHODS, Family, Layer
from lib_layerdiffusion.page import app
from lib_layerdiffusion.settings.parsing import DEFAULT_METHOD
from lib_layerdiffusion.weights import WeightStore
from tests.pages.browser import choose, free_port, overflow, said, set_number, visit

EVERYTHING = "(SD1.5) Generate Everything Together (need batch size 3)"
TO_BLEND = "(SDXL) From Foreground to Blending"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LayerDiffusion:
    pipeline, folder = tiny_pipeline(), tmp_path_factory.mktemp("layers")
    for name, tensors in layer_files(pipeline.unet):
        save_file(tensors, folder / f"{name}.safetensors")
    card = ModelCard("tiny", "random <weights>", (Family.SDXL, Family.SD15), steps=2, guidance=1.0)
    return LayerDiffusion(EngineHost(pipeline, card), WeightStore([folder], may_fetch=False))


@pytest.fixture(scope="module")
def address(engine: LayerDiffusion) -> Iterator[str]:
    with app.served(engine, port=free_port(), samplers=("Euler a", "DDIM")) as (_, url):
        yield url


def prepare(page: Any, seed: int = 7) -> None:
    page.fill("#layerdiffusion_prompt textarea", "an apple")
    set_number(page, "layerdiffusion_seed", seed)
    page.click("#layerdiffusion_decoding button")
    page.check("#layerdiffusion_decode_passes input[value='1']")


def generate(page: Any, count: int) -> None:
    page.click("#layerdiffusion_generate")
    page.wait_for_function(f"document.querySelectorAll('#layerdiffusion_files .download a').length === {count}")


def cut_off(page: Any) -> list[str]:
    """Layers of the gallery that something around them hides or that one would have to scroll to inside it."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#layerdiffusion_gallery .thumbnail-item")].filter((item) => {
            const own = item.getBoundingClientRect();
            if (!own.width || !own.height) return true;
            for (let box = item.parentElement; box.id !== "layerdiffusion_gallery"; box = box.parentElement) {
                const seen = box.getBoundingClientRect();
                const clips = getComputedStyle(box).overflowY !== "visible";
                if (clips && (own.bottom > seen.bottom + 1 || own.right > seen.right + 1)) return true;
            }
            return false;
        }).map((item) => item.textContent)"""
    )


def saved_as(page: Any, button: str, folder: Path) -> Path:
    """The file that comes down when something is clicked."""
    with page.expect_download() as waiting:
        page.click(button)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def downloads(page: Any, folder: Path) -> dict[str, Image.Image]:
    """The pictures in the list of files, by name."""
    found = {}
    for number in range(page.locator("#layerdiffusion_files .download a[download$='.png']").count()):
        path = saved_as(page, f"#layerdiffusion_files .download a[download$='.png'] >> nth={number}", folder)
        found[path.name] = Image.open(path)
    return found


def test_prompt_in_rgba_file_out(browser, address, engine, tmp_path: Path):
    with visit(browser, address) as opened:
        page = opened.page
        prepare(page)
        choose(page, "layerdiffusion_sampler", "Euler a")
        generate(page, 1)
        ((name, image),) = downloads(page, tmp_path).items()
        page.click("#layerdiffusion_about button")
        page.wait_for_selector("#layerdiffusion_infotext textarea")
        page.wait_for_function("document.querySelector('#layerdiffusion_infotext textarea').value !== ''")
        text = page.input_value("#layerdiffusion_infotext textarea")
    expected = engine.generate(
        "an apple", method=DEFAULT_METHOD, seed=7, steps=2, guidance=1.0, sampler="Euler a", decode_passes=1
    )
    assert name == "transparent-7.png"
    assert image.format == "PNG"
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image), np.asarray(expected.images[0].rgba))
    assert len(np.unique(np.asarray(image)[..., 3])) > 1
    assert image.info["parameters"] == text == expected.images[0].infotext


def test_every_layer_of_a_method_is_shown_and_downloaded_by_its_name(browser, address, tmp_path: Path):
    with visit(browser, address) as opened:
        page = opened.page
        prepare(page)
        choose(page, "layerdiffusion_method", EVERYTHING)
        generate(page, 3)
        captions = page.locator("#layerdiffusion_gallery .caption-label").all_text_contents()
        assert [caption.strip() for caption in captions] == ["foreground", "background", "blended"]
        assert cut_off(page) == []
        found = downloads(page, tmp_path)
    assert {name: image.mode for name, image in found.items()} == {
        "everything-7-foreground.png": "RGBA",
        "everything-7-background.png": "RGB",
        "everything-7-blended.png": "RGB",
    }


def test_all_layers_come_down_as_one_file(browser, address, tmp_path: Path):
    psd_tools = pytest.importorskip("psd_tools")
    with visit(browser, address) as opened:
        page = opened.page
        page.click("#layerdiffusion_save_ora")
        assert "generate one first" in said(page)
        prepare(page)
        choose(page, "layerdiffusion_method", EVERYTHING)
        set_number(page, "layerdiffusion_height", 128)
        generate(page, 3)
        ora = saved_as(page, "#layerdiffusion_save_ora", tmp_path)
        psd = saved_as(page, "#layerdiffusion_save_psd", tmp_path)
        page.wait_for_function("document.querySelectorAll('#layerdiffusion_files .download a').length === 5")
        found = downloads(page, tmp_path / "again")
    assert (ora.name, psd.name) == ("everything-7.ora", "everything-7.psd")
    layers = {name.rpartition("-")[2]: image.convert("RGBA") for name, image in found.items() if name.endswith(".png")}
    expected = Image.alpha_composite(layers["background.png"], layers["foreground.png"])
    with zipfile.ZipFile(ora) as archive:
        root = ET.fromstring(archive.read("stack.xml"))
        merged = Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGBA")
    assert (root.get("w"), root.get("h"), merged.size) == ("64", "128", (64, 128))
    assert [layer.get("name") for layer in root.iter("layer")] == ["foreground", "blended", "background"]
    document = psd_tools.PSDImage.open(psd)
    assert [layer.name for layer in document] == ["background", "blended", "foreground"]
    for picture in (merged, document.topil().convert("RGBA")):
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_the_layers_of_a_result_are_composed_anew(browser, address, tmp_path: Path):
    with visit(browser, address) as opened:
        page = opened.page
        page.get_by_role("tab", name="Compose").click()
        page.click("#layerdiffusion_compose")
        assert said(page) == "There is no foreground to compose: put a picture into it."
        page.get_by_role("tab", name="Generate").click()
        prepare(page)
        choose(page, "layerdiffusion_method", EVERYTHING)
        generate(page, 3)
        found = downloads(page, tmp_path)
        page.get_by_role("tab", name="Compose").click()
        page.click("#layerdiffusion_compose_take")
        page.wait_for_selector("#layerdiffusion_compose_background img")
        for name, value in (("left", 10), ("top", -5), ("scale", 0.5)):
            set_number(page, f"layerdiffusion_compose_{name}", value)
        page.click("#layerdiffusion_compose")
        page.wait_for_function("document.querySelectorAll('#layerdiffusion_composed_files .download a').length >= 2")
        result = saved_as(page, "#layerdiffusion_composed_files .download a >> nth=0", tmp_path)
        stack = read_ora(saved_as(page, "#layerdiffusion_composed_files .download a >> nth=1", tmp_path))
        page.check("#layerdiffusion_compose_blending input[value^='light']")
        set_number(page, "layerdiffusion_compose_scale", 0)
        page.click("#layerdiffusion_compose")
        assert "The scale is 0" in said(page)
    upper, below = (
        np.asarray(found[f"everything-7-{layer}.png"].convert("RGBA")) for layer in ("foreground", "background")
    )
    expected = place(upper, below, left=10, top=-5, scale=0.5)
    assert np.array_equal(np.asarray(Image.open(result)), expected)
    assert [(layer.name, layer.left, layer.top) for layer in stack.layers] == [
        ("background", 0, 0),
        ("foreground", 10, -5),
    ]
    assert np.abs(merge(stack.layers, stack.height, stack.width).astype(int) - expected).max() <= 1


def test_a_picture_moves_on_to_the_next_step(browser, address, tmp_path: Path):
    with visit(browser, address) as opened:
        page = opened.page
        prepare(page)
        page.click("#layerdiffusion_use_as_foreground")
        assert "generate one first" in said(page)
        generate(page, 1)
        page.click("#layerdiffusion_use_as_foreground")
        page.wait_for_selector("#layerdiffusion_foreground img")
        assert page.input_value("#layerdiffusion_method input") == TO_BLEND
        page.click("#layerdiffusion_generate")
        page.wait_for_function("document.querySelector('#layerdiffusion_files').innerText.includes('fg-to-blend')")
        (image,) = downloads(page, tmp_path).values()
    assert image.mode == "RGB"
    assert "LayerDiffusion foreground" in image.info["parameters"]


def test_the_gallery_shows_transparency_on_three_grounds(browser, address):
    with visit(browser, address) as opened:
        page = opened.page
        prepare(page)
        generate(page, 1)
        style = "getComputedStyle(document.querySelector('#layerdiffusion_gallery img'))"
        assert "conic-gradient" in page.evaluate(f"{style}.backgroundImage")
        for ground, colour in (("dark", "rgb(26, 26, 26)"), ("light", "rgb(255, 255, 255)")):
            page.check(f"#layerdiffusion_ground input[value='{ground}']")
            page.wait_for_function(f"{style}.backgroundColor === '{colour}'")
            assert page.evaluate(f"{style}.backgroundImage") == "none"


def test_what_is_wrong_is_said_on_the_page(browser, address, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    Image.new("I;16", (16, 16)).save(tmp_path / "grey.png")
    with visit(browser, address) as opened:
        page = opened.page
        prepare(page)
        set_number(page, "layerdiffusion_width", 100)
        page.click("#layerdiffusion_generate")
        assert "each side must be a multiple of 8" in said(page)
        set_number(page, "layerdiffusion_width", 64)
        choose(page, "layerdiffusion_method", TO_BLEND)
        page.wait_for_selector("#layerdiffusion_foreground", state="visible")
        page.click("#layerdiffusion_generate")
        assert said(page).endswith('needs a foreground picture: put one into "Foreground".')
        page.set_input_files("#layerdiffusion_foreground input[type=file]", str(tmp_path / "broken.png"))
        page.wait_for_selector("#layerdiffusion_foreground img", state="attached")
        page.click("#layerdiffusion_generate")
        assert "The foreground picture cannot be read" in said(page)


def test_the_page_fits_a_telephone(browser, address):
    with visit(browser, address, width=390, height=844) as opened:
        page = opened.page
        prepare(page)
        choose(page, "layerdiffusion_method", EVERYTHING)
        generate(page, 3)
        assert overflow(page) <= 0
        assert cut_off(page) == []
        choose(page, "layerdiffusion_method", "(SDXL) From Foreground and Blending to Background")
        page.wait_for_selector("#layerdiffusion_blended", state="visible")
        assert overflow(page) <= 0
        page.get_by_role("tab", name="Compose").click()
        page.wait_for_selector("#layerdiffusion_compose", state="visible")
        assert overflow(page) <= 0


def test_a_small_models_subjects_are_there_to_choose_from(browser, engine):
    with (
        app.served(engine, port=free_port(), subjects=("red apple", "ghost")) as (_, url),
        visit(browser, url) as opened,
    ):
        page = opened.page
        assert page.input_value("#layerdiffusion_prompt textarea") == "red apple"
        choose(page, "layerdiffusion_subject", "ghost")
        page.wait_for_function("document.querySelector('#layerdiffusion_prompt textarea').value === 'ghost'")
        assert not page.is_visible("#layerdiffusion_example")


def test_only_the_bundled_family_has_subjects(monkeypatch, tmp_path: Path):
    (tmp_path / "subjects.txt").write_text("red apple\n\nghost\n")
    monkeypatch.setattr(places, "bundled_family", lambda: tmp_path)
    assert ui.known_subjects(None) == ["red apple", "ghost"]
    assert ui.known_subjects("model.safetensors") == []
    monkeypatch.setattr(places, "bundled_family", lambda: None)
    assert ui.known_subjects(None) == []


class OpaqueEngine:
    """Its pictures hide everything behind them."""

    host = SimpleNamespace(source="opaque", steps=1, guidance=1.0, default_size=64)
    methods = tuple(METHODS.of_family(Family.SD15))

    def run(self, request: Any) -> Result:
        solid = np.full((64, 64, 4), 255, np.uint8)
        note = opaque_warning(solid)
        layers = {Layer.FOREGROUND: Image.fromarray(solid)}
        return Result((LayerPicture(layers, request.seed, notes=(note,)),), request.settings, request.seed, {})


def test_an_opaque_result_comes_with_both_remedies(browser):
    with app.served(OpaqueEngine(), port=free_port()) as (_, url), visit(browser, url) as opened:
        generate(opened.page, 1)
        note = opened.page.wait_for_selector("#layerdiffusion_summary .layerdiffusion_note").inner_text()
    assert "grey background" in note
    assert "base model" in note


class SlowEngine:
    """Reports steps until it is stopped."""

    host = SimpleNamespace(source="slow", steps=100, guidance=1.0, default_size=64)
    methods = tuple(METHODS.of_family(Family.SD15))

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended = threading.Event()

    def run(self, request: Any) -> Any:
        self.seen.append(request)
        try:
            for step in range(3000):
                request.progress("sample", step, 3000)
                threading.Event().wait(0.02)
        finally:
            self.ended.set()
        raise AssertionError("nobody has stopped the run")


def test_a_run_shows_its_progress_and_can_be_stopped(browser):
    engine = SlowEngine()
    with app.served(engine, port=free_port()) as (_, url), visit(browser, url) as opened:
        page = opened.page
        options = "[...document.querySelectorAll('#layerdiffusion_method [role=option]')].map(x => x.innerText)"
        page.click("#layerdiffusion_method input")
        assert len(page.evaluate(options)) == len(engine.methods)
        page.keyboard.press("Escape")
        page.click("#layerdiffusion_generate")
        page.wait_for_selector("#layerdiffusion_gallery :text('Sampling')")
        page.click("#layerdiffusion_stop")
        assert said(page) == "Stopped."
        assert engine.ended.is_set()
    (request,) = engine.seen
    assert request.settings.method.label == "(SD1.5) Only Generate Transparent Image (Attention Injection)"
    assert (request.sampler, request.steps, request.width, request.height) == ("", 100, 64, 64)
    assert request.seed >= 0


def test_a_port_in_use_is_one_sentence(address):
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(HostError, match=f"Nothing can listen on 127.0.0.1:{port}"), app.served(SlowEngine(), port=port):
        pass


def test_the_command_stays_on_this_machine_unless_told_otherwise():
    parser = argparse.ArgumentParser()
    ui.add_ui_parser(parser.add_subparsers())
    given = parser.parse_args(["ui"])
    assert (given.host, given.port) == ("127.0.0.1", 7860)
    given = parser.parse_args(["ui", "--host", "0.0.0.0", "--port", "80"])
    assert (given.host, given.port) == ("0.0.0.0", 80)
