"""The server with its page on an engine of random weights, and what a person does on that page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.hosts.diffusers import SAMPLER_NAMES
from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost, ModelCard
from lib_layerdiffusion.hosts.diffusers.tiny import layer_files, tiny_pipeline
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.server.app import WEB
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.serving import LOCAL, doors_of, served
from lib_layerdiffusion.server.workers import LocalWorker
from lib_layerdiffusion.weights import WeightStore
from tests.pages.browser import PATIENCE, visit

READY = "#create:not([aria-busy])"
PICTURE = ".view .large img, .view .gallery img"
LONG = 1000
"""Steps of a run that is meant to last until somebody stops it."""


def tiny_engine(folder: Path) -> LayerDiffusion:
    """Both families' methods on random weights; pictures of 64 pixels in two steps."""
    pipeline = tiny_pipeline()
    for name, tensors in layer_files(pipeline.unet):
        save_file(tensors, folder / f"{name}.safetensors")
    card = ModelCard("tiny", "random <weights>", (Family.SDXL, Family.SD15), steps=2, guidance=1.0)
    return LayerDiffusion(EngineHost(pipeline, card), WeightStore([folder], may_fetch=False))


@contextmanager
def page_of(engine: Any, limits: Limits | None = None) -> Iterator[str]:
    """The address of the page on an engine."""
    with page_and_service(engine, limits) as (address, _):
        yield address


@contextmanager
def page_and_service(engine: Any, limits: Limits | None = None) -> Iterator[tuple[str, Service]]:
    """The address of the page on an engine, and what lies behind it."""
    limits = limits or Limits()
    service = Service([LocalWorker(engine)], ModelFacts.of(engine, SAMPLER_NAMES), limits, WEB)
    with served(service, doors_of(LOCAL, "", frozenset(), limits.body_bytes)) as address:
        yield address, service


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The open page; it may not complain, nor ask any other machine for anything."""
    with visit(browser, address, ready=READY, foreign=(), **options) as found:
        yield found.page


def visited(browser: Any, address: str, **options: Any) -> Any:
    """As `opened`, with the visit itself."""
    return visit(browser, address, ready=READY, foreign=(), **options)


def until(page: Any, expression: str, argument: Any = None) -> Any:
    """Wait for an expression to be true. Playwright's own way evaluates in the page, whose policy forbids that."""
    for _ in range(PATIENCE // 50):
        if found := page.evaluate(expression, argument):
            return found
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def card(page: Any, title: str) -> None:
    """Choose what one wants."""
    page.locator(".card", has_text=title).click()


def generate(page: Any) -> None:
    """Press Generate and wait for the pictures of that run."""
    before = page.locator(".run-choice").count()
    page.click("#generate")
    until(page, "(count) => document.querySelectorAll('.run-choice').length > count", before)
    shown(page)


def shown(page: Any) -> None:
    """Wait until every picture in the view is there."""
    page.wait_for_selector(PICTURE)
    until(
        page, "[...document.querySelectorAll('.view img')].every((image) => image.complete && image.naturalWidth > 0)"
    )


def advanced(page: Any) -> None:
    """Open what is closed."""
    page.click(".advanced > summary")


def give(page: Any, slot: str, path: Path) -> None:
    """Choose a file for a slot."""
    page.set_input_files(f"#slot-{slot}", str(path))


def saved(page: Any, press: Any, folder: Path) -> Path:
    """The file that comes down when something is pressed."""
    with page.expect_download() as waiting:
        press()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def jobs(page: Any) -> list[dict[str, Any]]:
    """The runs of this page, as the server tells them, newest first."""
    return page.evaluate(
        """async () => {
            const client = JSON.parse(sessionStorage.getItem("layerdiffusion.client"));
            return (await (await fetch(`/layerdiffusion/v1/jobs?client=${client}`)).json()).jobs;
        }"""
    )
