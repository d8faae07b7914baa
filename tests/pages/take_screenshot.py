"""Takes the README's picture of the page: `python -m tests.pages.take_screenshot docs/images/page.png`.

It starts the page on the bundled family (or on --checkpoint), generates by clicking, and photographs the window.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.commands.ui import known_subjects
from lib_layerdiffusion.hosts.diffusers import SAMPLER_NAMES
from lib_layerdiffusion.methods import METHODS
from lib_layerdiffusion.page import app
from tests.pages.browser import CHROMIUM, FLAGS, choose, free_port, set_number, visit

LARGEST = 250_000
"""Bytes of the file; a larger one gets along with 256 colours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkpoint", help="as of `layerdiffusion ui`")
    parser.add_argument("--prompt", help="default: the first subject of the bundled family")
    parser.add_argument("--method", default="everything", help="short name or label")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    given = parser.parse_args()
    engine = LayerDiffusion.from_checkpoint(given.checkpoint)
    with (
        sync_playwright() as playwright,
        app.served(engine, port=free_port(), samplers=SAMPLER_NAMES, subjects=known_subjects(given.checkpoint)) as (
            _,
            url,
        ),
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with visit(browser, f"{url}?__theme={given.theme}", width=given.width, height=given.height) as opened:
            photographed(opened.page, engine.find_method(given.method).label, given)
        browser.close()


def photographed(page: Any, method: str, given: argparse.Namespace) -> None:
    """Generate and write the window's picture."""
    if given.prompt:
        page.fill("#layerdiffusion_prompt textarea", given.prompt)
    set_number(page, "layerdiffusion_seed", given.seed)
    choose(page, "layerdiffusion_method", method)
    page.click("#layerdiffusion_generate")
    frames = METHODS[method].frame_count
    page.wait_for_function(f"document.querySelectorAll('#layerdiffusion_files .download a').length === {frames}")
    loaded = "[...document.querySelectorAll('#layerdiffusion_gallery img')].every((image) => image.naturalWidth > 0)"
    page.wait_for_function(loaded)
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(0, 0)
    content = page.screenshot(animations="disabled")
    if len(content) > LARGEST:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)
        content = buffer.getvalue()
    given.output.write_bytes(content)


if __name__ == "__main__":
    main()
