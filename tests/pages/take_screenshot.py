"""Takes the documents' pictures of the page: `python -m tests.pages.take_screenshot docs/images`.

It starts the page on the bundled family, works on it as a person does, and says how long the first picture took.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

from lib_layerdiffusion import LayerDiffusion
from tests.pages.browser import CHROMIUM, FLAGS
from tests.pages.page_server import card, generate, opened, page_of, shown

LARGEST = 200_000
"""Bytes of a file; a larger one gets along with fewer colours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", default="3", help="of the pictures that are seen")
    given = parser.parse_args()
    engine = LayerDiffusion.from_checkpoint(None)
    with page_of(engine) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        first_view(browser, address, given)
        finished(browser, address, given)
        composed(browser, address, given)
        on_a_phone(browser, address, given)
        browser.close()


def first_view(browser: Any, address: str, given: argparse.Namespace) -> None:
    """The page as it opens; then one click on a thumbnail, timed from the opened page."""
    with opened(browser, address, width=1280, height=860, color_scheme="light") as page:
        page.wait_for_timeout(300)
        photograph(page, given.folder / "page-first.png")
        begin = time.perf_counter()
        page.locator(".example").first.click()
        shown(page)
        print(f"one click to the first picture, {time.perf_counter() - begin:.1f} seconds after it")


def finished(browser: Any, address: str, given: argparse.Namespace) -> None:
    """All layers of a picture, with a history."""
    with opened(browser, address, width=1280, height=960, color_scheme="light") as page:
        for prompt in ("frog", "gem stone", "strawberry"):
            page.fill("#prompt", prompt)
            page.fill("#seed", given.seed)
            generate(page)
            page.wait_for_timeout(600)
        card(page, "All layers at once")
        page.fill("#prompt", "red apple, sunset background")
        generate(page)
        photograph(page, given.folder / "page.png")


def composed(browser: Any, address: str, given: argparse.Namespace) -> None:
    """A picture dragged onto a photo."""
    with opened(browser, address, width=1280, height=860, color_scheme="light") as page:
        page.fill("#prompt", "red apple")
        page.fill("#seed", given.seed)
        generate(page)
        page.locator("button", has_text="Compose").click()
        page.set_input_files("#compose-background", {"name": "table.png", "mimeType": "image/png", "buffer": table()})
        page.wait_for_selector(".grip:not([hidden])")
        page.fill("#compose-scale", "1.1")
        page.fill("#compose-left", "300")
        page.fill("#compose-top", "170")
        page.locator(".grip").focus()
        photograph(page, given.folder / "page-compose.png")


def on_a_phone(browser: Any, address: str, given: argparse.Namespace) -> None:
    """The result on a phone in the dark."""
    phone = {"width": 390, "height": 844, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
    with opened(browser, address, **phone, device_scale_factor=1) as page:
        page.fill("#prompt", "frog")
        page.fill("#seed", given.seed)
        generate(page)
        page.evaluate("window.scrollTo(0, 60)")
        photograph(page, given.folder / "page-phone.png")


def table() -> bytes:
    """A wall and a table, in place of a photo."""
    image = Image.new("RGB", (720, 480), "#b9c4cf")
    draw = ImageDraw.Draw(image)
    for row in range(320):
        shade = row // 8
        draw.line([(0, row), (720, row)], fill=(196 - shade, 206 - shade, 214 - shade))
    for row in range(320, 480):
        shade = (row - 320) // 4
        draw.line([(0, row), (720, row)], fill=(150 + shade, 106 + shade, 70 + shade))
    draw.rectangle([80, 50, 250, 230], fill="#e9eef2", outline="#ffffff", width=8)
    draw.ellipse([300, 415, 590, 450], fill="#7a5638")
    content = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(3)).save(content, format="PNG")
    return content.getvalue()


def photograph(page: Any, path: Path) -> None:
    """Write the window's picture."""
    page.mouse.move(0, 0)
    content = page.screenshot(animations="disabled")
    image = Image.open(io.BytesIO(content)).convert("RGB")
    for write in (plainly, with_colours(256), with_colours(128), with_colours(64)):
        content = write(image)
        if len(content) <= LARGEST:
            break
    path.write_bytes(content)


def plainly(image: Image.Image) -> bytes:
    """A PNG with all its colours."""
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return content.getvalue()


def with_colours(count: int) -> Callable[[Image.Image], bytes]:
    """What writes a PNG of so many colours."""

    def write(image: Image.Image) -> bytes:
        return plainly(image.quantize(palette=image.quantize(count), dither=Image.Dither.FLOYDSTEINBERG))

    return write


if __name__ == "__main__":
    main()
