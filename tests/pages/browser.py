"""A real browser for the tests of pages, and what it complains about."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# gradio's page template loads this script for pages that are embedded in others; nothing of ours asks for it.
TEMPLATE_HOSTS = {"cdnjs.cloudflare.com"}
PATIENCE = int(os.environ.get("PAGE_PATIENCE", "120000"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Visit:
    """An open page. complaints: console errors and uncaught exceptions. abroad: other machines that it asked."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    abroad: set[str] = field(default_factory=set)


@contextmanager
def visit(
    browser: Any,
    address: str,
    *,
    width: int = 1280,
    height: int = 900,
    ready: str = "#layerdiffusion_method input",
    foreign: Collection[str] = TEMPLATE_HOSTS,
    expected: Collection[str] = (),
    **context_options: Any,
) -> Iterator[Visit]:
    """Open `address`; on leaving, fail if the page complained or asked other machines for anything.

    ready: a selector that is there once the page is. foreign: machines that it may ask. expected: pieces of complaints
    that belong to what a test does. context_options: of Playwright's browser context.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **context_options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    opened = Visit(page)

    def answer(route: Any) -> None:
        machine = urlparse(route.request.url).hostname
        if machine == "127.0.0.1":
            route.continue_()
            return
        opened.abroad.add(machine)
        route.fulfill(status=200, content_type="text/javascript", body="")

    page.route("http*://**/*", answer)
    page.on("console", lambda message: opened.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector(ready)
    try:
        yield opened
    finally:
        context.close()
    assert [text for text in opened.complaints if not any(piece in text for piece in expected)] == []
    assert opened.abroad <= set(foreign)


def choose(page: Any, dropdown: str, option: str) -> None:
    """Pick an option of a gradio dropdown as a person does."""
    page.click(f"#{dropdown} input")
    page.get_by_role("option", name=option, exact=True).click()


def set_number(page: Any, elem_id: str, value: float) -> None:
    box = page.locator(f"#{elem_id} input[type=number]").first
    box.fill(str(value))
    box.press("Tab")


def upload(page: Any, elem_id: str, path: Path) -> None:
    page.set_input_files(f"#{elem_id} input[type=file]", str(path))
    page.wait_for_selector(f"#{elem_id} img")


def said(page: Any) -> str:
    """What the error that the page shows says; the error is put away."""
    toast = page.wait_for_selector(".toast-body.error :is(.toast-text, .toast-message-text)")  # gradio 4, 6
    text = toast.inner_text()
    page.click(".toast-close")
    page.wait_for_selector(".toast-body.error", state="detached")
    return text


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
