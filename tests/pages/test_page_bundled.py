"""The page on the bundled family, as people first meet it: one click to a picture, and the same care for runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.places import bundled_family
from tests.pages.page_server import advanced, card, generate, jobs, opened, page_of, shown
from tests.pages.test_page_pictures import drop
from tests.pages.test_page_runs import begin_long, states

pytestmark = pytest.mark.skipif(bundled_family() is None, reason="no family comes with this copy")


@pytest.fixture(scope="module")
def bundled() -> Iterator[str]:
    with page_of(LayerDiffusion.from_checkpoint(None)) as address:
        yield address


def test_one_click_makes_the_first_picture(browser, bundled):
    with opened(browser, bundled) as page:
        assert page.locator(".example img").count() == 6
        name = page.locator(".example").nth(2).inner_text().strip().lower()
        page.locator(".example").nth(2).click()
        shown(page)
        assert page.inner_text(".caption b") == name
        assert jobs(page)[0]["state"] == "done"
        assert page.locator(".notice:visible").count() == 0


def test_words_that_it_does_not_know_are_said_while_typing_and_drawn_all_the_same(browser, bundled):
    with opened(browser, bundled) as page:
        page.fill("#prompt", "an iridescent red apple")
        page.wait_for_selector("#unknown-words:visible")
        said = 'This model does not know "iridescent": it draws what the other words say.'
        assert page.inner_text("#unknown-words") == said
        generate(page)
        assert page.locator(".notice:visible").count() == 0  # said once is enough
        page.fill("#prompt", "")
        page.wait_for_selector("#unknown-words:has-text('empty')")
        page.fill("#prompt", "red apple")
        page.wait_for_selector("#unknown-words", state="hidden")


def counted_clicks(page) -> None:
    page.evaluate("window.clicks = 0; addEventListener('pointerdown', () => { window.clicks += 1; }, true)")


def test_something_on_my_photo_takes_a_drop_and_no_click_or_three_clicks(browser, bundled, tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (160, 120), "olive").save(photo)
    with opened(browser, bundled) as page:
        counted_clicks(page)
        drop(page, photo)
        page.wait_for_selector(".slot img")
        page.keyboard.type("red apple")
        page.keyboard.press("Control+Enter")
        shown(page)
        assert page.evaluate("window.clicks") == 0
        assert jobs(page)[0]["request"]["background"].startswith("upload-")
    with opened(browser, bundled) as page:
        counted_clicks(page)
        page.locator(".card", has_text="Put something on my background").click()
        with page.expect_file_chooser() as waiting:
            page.locator(".ask .slot label", has_text="Choose").click()
        waiting.value.set_files(str(photo))
        page.wait_for_selector(".slot img")
        page.click("#generate")
        shown(page)
        assert page.evaluate("window.clicks") == 3


def test_sizes_that_it_cannot_do_are_not_offered(browser, bundled):
    with opened(browser, bundled) as page:
        assert page.locator("#width, #height, .aspect").count() == 0
        assert "only" in page.inner_text("#size-note")


def test_a_reload_in_a_run_finds_it_and_stop_ends_what_waits(browser, bundled):
    with opened(browser, bundled) as page:
        advanced(page)
        page.fill("#prompt", "frog")
        generate(page)
        begin_long(page)
        page.wait_for_selector("#generate.running")
        begin_long(page)
        page.wait_for_selector("text=1 more waiting")
        page.reload()
        page.wait_for_selector("#create:not([aria-busy])")
        page.wait_for_selector(".progress-line:has-text('Sampling')")
        page.wait_for_selector("text=1 more waiting")
        assert page.inner_text(".caption b") == "frog"
        page.click("#stop")
        page.wait_for_selector("#generate:not(.running)")
        assert states(page) == ["stopped", "stopped", "done"]
        assert page.locator(".large img").is_visible()


def test_two_tabs_work_side_by_side(browser, bundled):
    with opened(browser, bundled) as one, opened(browser, bundled) as other:
        advanced(one)
        begin_long(one)
        one.wait_for_selector(".progress-line:has-text('Sampling')")
        card(other, "All layers at once")
        other.click("#generate")
        other.wait_for_selector("#generate.running:has-text('Waiting')")
        one.click("#stop")
        shown(other)
        assert [layer["layer"] for layer in jobs(other)[0]["pictures"][0]["layers"]] == [
            "foreground",
            "background",
            "blended",
        ]
        assert one.locator(".run-choice").count() == 0
