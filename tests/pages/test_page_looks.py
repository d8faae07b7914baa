"""The page of `layerdiffusion ui`: sizes and themes, reach for everybody, languages, weight, and the compose tool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from lib_layerdiffusion.images.compose import place
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.images.reading import read_picture
from lib_layerdiffusion.places import localizations_folder
from lib_layerdiffusion.server.app import WEB
from tests.pages.browser import overflow
from tests.pages.page_server import advanced, card, generate, opened, saved, until, visited

MOST_BYTES = 300_000
SERIOUS = {"serious", "critical"}
WINDOWS = {1400: 900, 1280: 800, 820: 1180, 390: 844}


def complaints(page) -> list[str]:
    """What axe-core finds serious on the page as it is."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{row['id']}: {node['target']} {node.get('failureSummary', '')}"
        for row in found
        if row["impact"] in SERIOUS
        for node in row["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WINDOWS)
def test_everybody_can_use_it_at_every_size_in_both_themes(browser, address, width, theme):
    with opened(browser, address, width=width, height=WINDOWS[width], color_scheme=theme) as page:
        assert complaints(page) == []
        assert overflow(page) <= 0
        card(page, "Put something on my background")
        advanced(page)
        page.fill("#batch", "1.7")
        assert complaints(page) == []
        page.click("#generate")
        page.fill("#batch", "5")
        card(page, "A transparent picture")
        generate(page)
        assert complaints(page) == []
        page.locator(".tile").nth(1).dblclick()
        page.click(".infotext summary")
        assert complaints(page) == []
        assert overflow(page) <= 0
        page.locator("button", has_text="Compose").click()
        page.wait_for_selector(".board:not([hidden])")
        assert complaints(page) == []
        assert overflow(page) <= 0


def test_the_theme_is_chosen_and_remembered(browser, address):
    with opened(browser, address, color_scheme="light") as page:
        paper = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(paper)
        page.click("#theme")
        assert page.evaluate(paper) == light
        page.click("#theme")
        dark = page.evaluate(paper)
        assert dark != light
        page.reload()
        page.wait_for_selector("#create:not([aria-busy])")
        assert page.evaluate(paper) == dark


def test_the_page_is_light_and_asks_only_its_own_server(browser, address):
    assert sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file()) <= MOST_BYTES
    with visited(browser, address) as visit:
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        visit.page.reload()
        visit.page.wait_for_selector("#create:not([aria-busy])")
        assert asked
        assert [url for url in asked if not url.startswith(f"{address}/")] == []


def test_help_stands_at_full_width(browser, address):
    with opened(browser, address) as page:
        advanced(page)
        field = page.locator(".field-steps").bounding_box()
        assert page.locator("#steps-about").bounding_box()["width"] == field["width"]


def literals(source: str) -> set[str]:
    """English texts in a module: what `t` is given, and whole sentences and titles elsewhere."""
    code = re.sub(r"^\s*(?://|\*|/\*).*$", "", source, flags=re.MULTILINE)
    found = set(re.findall(r'\bt\(\s*"((?:[^"\\\n]|\\.)+)"', code))
    return found | {text for text in re.findall(r'"([A-Z][a-z ][^"\\\n]* [^"\\\n]+[.a-z])"', code) if "${" not in text}


@pytest.mark.parametrize("language", ["zh_CN", "ja_JP"])
def test_every_text_is_translated(language):
    own = json.loads((WEB / "words" / f"{language}.json").read_text(encoding="utf-8"))
    table = json.loads((localizations_folder() / f"{language}.json").read_text(encoding="utf-8"))
    wanted = set().union(*(literals(path.read_text(encoding="utf-8")) for path in (WEB / "js").glob("*.js")))
    assert len(wanted) > 80
    assert sorted(wanted - own.keys() - table.keys()) == []
    for text, translated in own.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", translated)), text


@pytest.mark.parametrize(
    ("language", "generate_text", "method"), [("zh_CN", "生成", "方法"), ("ja_JP", "生成", "方法")]
)
def test_the_page_speaks_the_language_that_is_chosen(browser, address, language, generate_text, method):
    names = {"Euler", "LayerDiffusion", "English", "PNG", "SDXL", "VAE", "Ctrl", "Alpha", "random", "weights"}
    with opened(browser, address) as page:
        with page.expect_navigation():
            page.select_option("#language", language)
        page.wait_for_selector("#create:not([aria-busy])")
        assert page.inner_text(".run-label") == "生成"
        assert page.inner_text(".cards legend") in {"方法", "方式"}
        assert page.get_attribute("html", "lang") == language.replace("_", "-")
        advanced(page)
        generate(page)
        seen = page.evaluate(
            "[...document.querySelectorAll('label, legend, summary, .help, button')].map((e) => e.innerText)"
        )
        words = {word for text in seen for word in re.findall(r"[A-Za-z]{4,}", text)}
        assert words - names == set()


def start_composing(page, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Open the compose tool on two pictures of different sizes."""
    rng = np.random.default_rng(3)
    upper, lower = rng.integers(0, 256, (40, 40, 4), np.uint8), rng.integers(0, 256, (100, 160, 3), np.uint8)
    Image.fromarray(upper).save(tmp_path / "upper.png")
    Image.fromarray(lower).save(tmp_path / "lower.png")
    page.click("[data-tool=compose]")
    for name, path in (("foreground", "upper.png"), ("background", "lower.png")):
        page.set_input_files(f"#compose-{name}", str(tmp_path / path))
    page.wait_for_selector(".grip:not([hidden])")
    return upper, np.dstack([lower, np.full(lower.shape[:2], 255, np.uint8)])


def test_compose_by_dragging_and_scaling_with_numbers_beside_it(browser, address, tmp_path: Path):
    with opened(browser, address) as page:
        upper, lower = start_composing(page, tmp_path)
        frame, board = page.locator(".grip"), page.locator(".board").bounding_box()
        unit = board["width"] / 160
        box = frame.bounding_box()
        assert (page.input_value("#compose-left"), page.input_value("#compose-top")) == ("60", "30")  # in the middle
        page.mouse.move(box["x"] + 20 * unit, box["y"] + 20 * unit)
        page.mouse.down()
        page.mouse.move(box["x"] - 10 * unit, box["y"] + 2 * unit, steps=4)
        page.mouse.up()
        assert (page.input_value("#compose-left"), page.input_value("#compose-top")) == ("30", "12")
        box = page.locator(".handle.se").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 20 * unit, y + 20 * unit, steps=4)
        page.mouse.up()
        assert float(page.input_value("#compose-scale")) == pytest.approx(1.5, abs=0.02)
        assert (page.input_value("#compose-left"), page.input_value("#compose-top")) == ("30", "12")
        page.fill("#compose-scale", "1.5")
        frame.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
        assert (page.input_value("#compose-left"), page.input_value("#compose-top")) == ("31", "22")
        live = page.evaluate(
            "[...document.querySelector('.board canvas').getContext('2d').getImageData(60, 50, 1, 1).data]"
        )
        png = saved(page, lambda: page.click("#compose-png"), tmp_path)
        ora = saved(page, lambda: page.click("#compose-ora"), tmp_path)
    expected = place(upper, lower, left=31, top=22, scale=1.5)
    found = read_picture(png.read_bytes(), "composed")
    assert np.array_equal(found, expected)
    assert np.abs(np.asarray(live, int) - expected[50, 60].astype(int)).max() <= 24  # another way of scaling
    layers = {layer.name: layer for layer in read_ora(ora).layers}
    assert (layers["foreground"].left, layers["foreground"].top) == (31, 22)
    assert layers["foreground"].picture.shape[:2] == (60, 60)


def test_blending_light_is_seen_and_saved(browser, address, tmp_path: Path):
    with opened(browser, address) as page:
        upper, lower = start_composing(page, tmp_path)
        page.fill("#compose-left", "0")
        page.fill("#compose-top", "0")
        page.check("#compose-linear")
        expected = place(upper, lower, linear=True)
        pixel = "[...document.querySelector('.board canvas').getContext('2d').getImageData(20, 20, 1, 1).data]"
        until(page, f"(wanted) => {pixel}.join() === wanted", ",".join(map(str, expected[20, 20])))
        png = saved(page, lambda: page.click("#compose-png"), tmp_path)
    assert np.array_equal(read_picture(png.read_bytes(), "composed"), expected)
