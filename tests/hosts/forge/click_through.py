"""Alpha through the buttons of a running host's page, clicked in Chromium; rows of docs/alpha.md come of it.

    python -m tests.hosts.forge.click_through http://127.0.0.1:7860 HOST_NAME OUTPUTS [--alpha-matrix FILE]

The host runs with this extension, an SD1.5 checkpoint and an upscaler. OUTPUTS is the folder below which it saves.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

METHOD = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WAIT = 240_000
SIDE = 64
"""Of pictures, in pixels: a CPU takes its time."""
DROP = """async ([source, target]) => {
    const blob = await (await fetch(source)).blob();
    const data = new DataTransfer();
    data.items.add(new File([blob], 'dragged.png', {type: blob.type}));
    const area = document.querySelector(target);
    for (const kind of ['dragenter', 'dragover', 'drop'])
        area.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
}"""

CANVAS = """chosen => {
    const canvas = document.querySelector(chosen);
    const all = [...document.querySelectorAll('.logical_image_background textarea')];
    const behind = one => canvas.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING;
    return all.find(behind).value;
}"""


class Host:
    """The page of a host."""

    def __init__(self, page: Page, address: str, outputs: Path) -> None:
        self.page, self.outputs = page, outputs
        page.set_default_timeout(90_000)
        page.goto(f"{address}/?__theme=light", wait_until="domcontentloaded")
        page.wait_for_selector("#txt2img_generate", timeout=WAIT)
        page.wait_for_timeout(4000)

    def number(self, control: str, value: float) -> None:
        """Type into a slider's box."""
        box = self.page.locator(f"#{control} input[type=number]").first
        box.fill(str(value))
        box.press("Tab")

    def start_layers(self, tab: str) -> None:
        """Switch LayerDiffusion on and choose the method for one picture."""
        accordion = f"#layerdiffusion_{tab}_enabled"
        # The box that the host draws on the accordion's head is made by a script of its own, not on every host.
        self.page.evaluate(f"document.querySelector('{accordion}-checkbox input').click()")
        menu = self.page.locator(f"#layerdiffusion_{tab}_method input").first
        if not menu.is_visible():
            self.page.locator(f"{accordion} > .label-wrap").click()
        if menu.input_value() != METHOD:
            menu.click()
            self.page.locator(f"#layerdiffusion_{tab}_method ul [aria-label={json.dumps(METHOD)}]").first.click()
        if menu.input_value() != METHOD:
            raise AssertionError(menu.input_value())

    def shown(self, tab: str) -> list[str]:
        """Addresses of the pictures in a tab's gallery."""
        found = self.page.locator(f"#{tab}_gallery img").evaluate_all("all => all.map(one => one.src)")
        return list(dict.fromkeys(address.split("?")[0] for address in found))

    def select_first(self, tab: str) -> None:
        """Choose the first picture of a gallery, where there are several to choose from."""
        thumbnails = self.page.locator(f"#{tab}_gallery .thumbnail-small")
        if thumbnails.count() > 1:
            thumbnails.first.click()
            self.page.wait_for_timeout(500)

    def in_canvas(self, canvas: str) -> Image.Image:
        """What a canvas holds."""
        data = str(self.page.evaluate(CANVAS, canvas))
        return Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))

    def picture(self, address: str) -> Image.Image:
        """A picture of the page as its browser gets it."""
        return Image.open(io.BytesIO(self.page.request.get(address).body()))

    def new_pictures(self, tab: str, button: str) -> list[Image.Image]:
        """Click, wait for other pictures in the gallery than there were, and get them."""
        before = set(self.shown(tab))
        self.page.locator(button).first.click()
        until = time.monotonic() + WAIT / 1000
        while time.monotonic() < until:
            self.page.wait_for_timeout(500)
            now = self.shown(tab)
            if set(now) - before and not self.page.locator(f"#{tab}_interrupt").is_visible():
                self.page.wait_for_timeout(1500)
                return [self.picture(address) for address in self.shown(tab) if address not in before]
        raise TimeoutError(f"no new picture after {button}")

    def newest(self, ending: str, since: float) -> Path:
        """The newest file that the host saved after a moment."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = [path for path in self.outputs.rglob(f"*{ending}") if path.stat().st_mtime >= since]
            if found:
                return max(found, key=lambda path: path.stat().st_mtime)
            self.page.wait_for_timeout(500)
        raise TimeoutError(f"no {ending} below {self.outputs}")


def alpha(picture: Image.Image) -> np.ndarray[Any, Any]:
    """uint8 [H, W]; a picture without it is no layer."""
    if picture.mode != "RGBA" or picture.getextrema()[3][0] >= 250:
        raise AssertionError(f"no alpha: {picture.mode} {picture.size} {picture.getextrema()[-1]}")
    return np.asarray(picture)[..., 3]


def generate(host: Host) -> str:
    host.page.locator("#txt2img_prompt textarea").fill("an apple")
    small = {"steps": 2, "width": SIDE, "height": SIDE, "cfg_scale": 1}
    for control, value in small.items():
        host.number(f"txt2img_{control}", value)
    host.page.locator("#txt2img_seed input").first.fill("1")  # of random weights not every seed gives a clear place
    host.start_layers("txt2img")
    first = host.new_pictures("txt2img", "#txt2img_generate")[0]
    alpha(first)
    if first.size != (SIDE, SIDE):
        raise AssertionError(f"size {first.size}")
    return "the gallery's picture has alpha"


def save(host: Host) -> str:
    since, made = time.time(), host.picture(host.shown("txt2img")[0])
    host.page.locator("#save_txt2img").click()
    saved = Image.open(host.newest(".png", since))
    if not np.array_equal(alpha(saved), alpha(made)):
        raise AssertionError("another alpha")
    return "the file has the alpha of the picture"


def zipped(host: Host) -> str:
    since = time.time()
    host.page.locator("#save_zip_txt2img").click()
    with zipfile.ZipFile(host.newest(".zip", since)) as archive:
        first = next(name for name in archive.namelist() if name.endswith(".png"))
        alpha(Image.open(archive.open(first)))
    return "the file in the archive has alpha"


def drag(host: Host) -> str:
    """From the gallery into the canvas of image-to-image."""
    host.page.evaluate(DROP, [host.shown("txt2img")[0], "#img2img_image .forge-image-container"])
    host.page.wait_for_timeout(3000)
    taken = host.in_canvas("#img2img_image")
    made = host.picture(host.shown("txt2img")[0])
    if not np.array_equal(alpha(taken), alpha(made)):
        raise AssertionError(f"another alpha, {taken.size}")
    return "the canvas holds its alpha"


def upscale(host: Host) -> str:
    host.select_first("txt2img")
    host.page.locator("#txt2img_hr > .label-wrap").click()
    for control, value in {"hr_scale": 2, "hr_cfg": 1}.items():
        host.number(f"txt2img_{control}", value)
    made = host.new_pictures("txt2img", "#txt2img_upscale")
    larger = (SIDE * 2, SIDE * 2)
    if all(alpha(one).shape != larger for one in made if one.mode == "RGBA"):
        raise AssertionError(str([(one.mode, one.size) for one in made]))
    return "one picture with alpha at the new size"


def to_img2img(host: Host) -> str:
    host.select_first("txt2img")
    host.page.locator("#txt2img_send_to_img2img").click()
    host.page.wait_for_timeout(4000)
    alpha(host.in_canvas("#img2img_image"))
    for control, value in {"steps": 2, "denoising_strength": 0.5, "cfg_scale": 1}.items():
        host.number(f"img2img_{control}", value)
    host.start_layers("img2img")
    host.page.locator("#img2img_seed input").first.fill("1")
    made = host.new_pictures("img2img", "#img2img_generate")[0]
    if made.mode != "RGBA":  # random weights fill what was clear
        raise AssertionError(made.mode)
    return "the canvas holds its alpha; image-to-image of it gives an RGBA picture"


def to_extras(host: Host) -> str:
    host.page.locator("#tabs button", has_text=re.compile("^ *txt2img *$", re.IGNORECASE)).first.click()
    host.select_first("txt2img")
    host.page.locator("#txt2img_send_to_extras").click()
    host.page.wait_for_timeout(4000)
    menu = host.page.locator("#extras_upscaler_1 input").first
    menu.click()
    listed = host.page.locator("#extras_upscaler_1 ul [aria-label]")
    names = listed.evaluate_all("all => all.map(one => one.ariaLabel)")
    listed.nth(names.index("Lanczos") if "Lanczos" in names else len(names) - 1).click()
    host.number("extras_upscaling_resize", 2)
    made = host.new_pictures("extras", "#extras_generate")[0]
    alpha(made)
    return "upscaled, with its alpha"


STEPS: dict[str, Callable[[Host], str]] = {
    "clicked: Generate": generate,
    "clicked: Save": save,
    "clicked: Zip": zipped,
    "dragged from the gallery into the canvas of img2img": drag,
    "clicked: the gallery's upscale button": upscale,
    "clicked: send to img2img, then Generate": to_img2img,
    "clicked: send to Extras, then Generate": to_extras,
}


def main() -> int:
    """Click through everything; returns how many steps failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("host")
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--alpha-matrix", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=(), help="words of steps that are not wanted")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given, failed = parser.parse_args(), 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=FLAGS)
        host = Host(browser.new_page(viewport={"width": 1400, "height": 1600}), given.address, given.outputs)
        for done, step in STEPS.items():
            if any(word in done for word in given.leave_out):
                continue
            try:
                outcome = step(host)
            except Exception as error:  # noqa: BLE001  # the other steps are tried as well
                failed += 1
                host.page.screenshot(path=f"click-{failed}.png")
                print(f"FAILED {done}: {type(error).__name__} {str(error)[:300]}", flush=True)
                continue
            print(f"{done}: {outcome}", flush=True)
            if given.alpha_matrix is not None:
                entry = {"host": given.host, "done": done, "technique": "one picture", "outcome": outcome}
                with given.alpha_matrix.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
        browser.close()
    return failed


if __name__ == "__main__":
    sys.exit(main())
