"""The page of `layerdiffusion ui`: runs that wait, are stopped, fail, or are found after a reload."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_layerdiffusion.server.jobs import State
from lib_layerdiffusion.server.limits import Limits
from tests.pages.page_server import (
    LONG,
    advanced,
    card,
    generate,
    give,
    jobs,
    opened,
    page_and_service,
    shown,
    until,
    visited,
)

CLIENT = 'JSON.parse(sessionStorage.getItem("layerdiffusion.client"))'


def begin_long(page) -> None:
    """Begin a run that lasts until it is stopped."""
    page.fill("#steps", str(LONG))
    page.wait_for_timeout(600)  # a second click within half a second is not meant
    page.click("#generate")


def states(page) -> list[str]:
    return [job["state"] for job in jobs(page)]


def test_stop_ends_waiting_runs_too_and_keeps_the_last_picture(browser, address):
    with opened(browser, address) as page:
        advanced(page)
        page.fill("#prompt", "kept")
        generate(page)
        assert page.is_disabled("#stop")
        begin_long(page)
        page.wait_for_selector("#generate.running")
        begin_long(page)
        page.wait_for_selector("text=1 more waiting")
        assert states(page) == ["queued", "running", "done"]
        assert page.inner_text(".run-label") == "Generating…"
        page.click("#stop")
        page.wait_for_selector(".notice:has-text('Stopped.')")
        page.wait_for_selector("#generate:not(.running)")
        assert states(page) == ["stopped", "stopped", "done"]
        assert page.inner_text(".caption b") == "kept"
        assert page.locator(".large img").is_visible()


def test_progress_counts_and_tells_the_time_left(browser, address):
    with opened(browser, address) as page:
        advanced(page)
        generate(page)  # from here on the server knows how long a step takes
        begin_long(page)
        page.wait_for_selector(".progress-line:has-text('left')")
        text = page.inner_text(".progress-line")
        found = re.fullmatch(r"Sampling (\d+)/(\d+) · .+ left", text)
        assert found, text
        assert int(found[2]) > LONG  # decode passes are counted as well
        first = float(page.evaluate("document.querySelector('#progress').value"))
        until(page, "(before) => document.querySelector('#progress').value > before", first)
        page.click("#stop")
        page.wait_for_selector("#generate:not(.running)")


def test_a_reload_finds_its_run_its_form_and_its_history(browser, address, tmp_path: Path):
    Image.new("RGB", (50, 40), "navy").save(tmp_path / "wall.png")
    with opened(browser, address) as page:
        advanced(page)
        page.fill("#prompt", "before")
        generate(page)
        card(page, "Put something on my background")
        give(page, "background", tmp_path / "wall.png")
        page.wait_for_selector(".slot img")
        page.fill("#prompt", "a long one")
        page.fill("#seed", "9")
        begin_long(page)
        page.wait_for_selector("#generate.running")
        page.reload()
        page.wait_for_selector("#create:not([aria-busy])")
        page.wait_for_selector("#generate.running")
        assert (page.input_value("#prompt"), page.input_value("#seed")) == ("a long one", "9")
        assert page.locator(".card:has(:checked)").inner_text() == "Put something on my background"
        assert page.locator(".slot img").is_visible()
        assert page.inner_text(".caption b") == "before"
        page.wait_for_selector(".progress-line:has-text('Sampling')")
        page.click("#stop")
        page.wait_for_selector("#generate:not(.running)")
        assert states(page) == ["stopped", "done"]


def test_two_tabs_have_a_history_each_and_stop_only_their_own(browser, address):
    with opened(browser, address) as one, opened(browser, address) as other:
        advanced(one)
        one.fill("#prompt", "one")
        begin_long(one)
        one.wait_for_selector(".progress-line:has-text('Sampling')")
        other.fill("#prompt", "other")
        other.click("#generate")
        other.wait_for_selector("#generate.running:has-text('Waiting')")
        one.click("#stop")
        shown(other)
        assert [job["request"]["prompt"] for job in jobs(one)] == ["one"]
        assert [(job["request"]["prompt"], job["state"]) for job in jobs(other)] == [("other", "done")]
        assert one.locator(".run-choice").count() == 0


def test_a_double_click_makes_one_run(browser, address):
    with opened(browser, address) as page:
        page.dblclick("#generate")
        shown(page)
        assert len(jobs(page)) == 1


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("batch", "1.7", "This must be a whole number."),
        ("batch", "0", "This must be from 1 to "),
        ("seed", "1e5", "A seed is a whole number"),
        ("seed", "9223372036854775808", "This must be from 0 to 9223372036854775807."),
        ("width", "60", "This must be from 64 to 8192."),
        ("width", "100", "This must be a multiple of 8."),
        ("steps", "", "A number is missing here."),
    ],
)
def test_what_cannot_be_is_said_beside_the_field_and_above_the_picture(browser, address, field, value, sentence):
    with opened(browser, address) as page:
        advanced(page)
        generate(page)
        page.fill(f"#{field}", value)
        assert page.inner_text(f"#{field}-wrong").startswith(sentence)
        assert page.get_attribute(f"#{field}", "aria-invalid") == "true"
        page.wait_for_timeout(600)
        page.click("#generate")
        label = page.inner_text(f"label[for={field}]")
        notice, picture = page.locator(".stage > .notice.error"), page.locator(".large img")
        assert notice.inner_text().startswith(f"{label}: {sentence}")
        assert notice.bounding_box()["y"] + notice.bounding_box()["height"] <= picture.bounding_box()["y"]
        assert page.evaluate("document.activeElement.id") == field
        assert len(jobs(page)) == 1


def test_the_largest_seed_is_exact(browser, address):
    with opened(browser, address) as page:
        page.fill("#seed", "9223372036854775807")
        generate(page)
        assert jobs(page)[0]["seed"] == "9223372036854775807"
        assert "Seed 9223372036854775807" in page.inner_text(".caption")


def test_an_unreadable_picture_is_refused_at_once_beside_its_slot(browser, address, tmp_path: Path):
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    refused = "Failed to load resource"  # the browser's own note of the answer 422
    with opened(browser, address, expected=(refused,)) as page:
        card(page, "Put something on my background")
        give(page, "background", tmp_path / "no.png")
        page.wait_for_selector(".slot .wrong:not([hidden])")
        assert "picture" in page.inner_text(".slot .wrong")
        assert page.locator(".slot img").count() == 0
        assert jobs(page) == []


def test_what_the_server_refuses_stands_above_the_picture_and_beside_its_field(browser, address):
    with opened(browser, address, expected=("Failed to load resource",)) as page:
        advanced(page)
        generate(page)
        page.fill("#sampler", "Nonsense")
        page.wait_for_timeout(600)
        page.click("#generate")
        page.wait_for_selector(".notice.error")
        assert "Nonsense" in page.inner_text(".notice.error")
        assert "Nonsense" in page.inner_text("#sampler-wrong")
        assert page.locator(".large img").is_visible()


def test_a_server_that_is_gone_is_said(browser, address):
    with opened(browser, address, expected=("Failed to load resource",)) as page:
        page.route("**/generate", lambda route: route.abort())
        page.click("#generate")
        page.wait_for_selector(".notice.error")
        assert "does not answer" in page.inner_text(".notice.error")


def test_a_mistake_is_one_line_in_either_console(browser, address, caplog):
    with visited(browser, address, expected=("Failed to load resource",)) as visit:
        page = visit.page
        advanced(page)
        page.fill("#sampler", "Nonsense")
        page.click("#generate")
        page.wait_for_selector(".notice.error")
        assert len(visit.complaints) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith('Refused: There is no sampler "Nonsense"')


def test_a_run_whose_page_is_gone_for_good_ends(browser, engine):
    with page_and_service(engine, Limits(attended_seconds=1.0)) as (address, service):
        with opened(browser, address) as page:
            advanced(page)
            begin_long(page)
            page.wait_for_selector(".progress-line:has-text('Sampling')")
            page.wait_for_timeout(2000)
            (job,) = service.board.of_client(page.evaluate(CLIENT))
            assert job.state is State.RUNNING  # somebody looks
        end = time.monotonic() + 30
        while job.state is State.RUNNING and time.monotonic() < end:
            time.sleep(0.1)
        assert job.state is State.STOPPED


def test_nothing_scrolls_by_itself_when_the_result_is_in_view(browser, address):
    with opened(browser, address, width=390, height=844) as page:
        page.evaluate("window.scrollTo(0, 260)")
        before = page.evaluate("window.scrollY")
        generate(page)
        assert page.evaluate("window.scrollY") == before
        parts = [page.locator(name).bounding_box()["y"] for name in ("#generate", ".large img", "#batch")]
        assert parts == sorted(parts)
