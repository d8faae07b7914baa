"""A page of its own: the panel, with everything that a host's page has around it, on one engine.

The engine makes one run at a time; further ones wait in gradio's queue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.interface import panel, wording
from lib_layerdiffusion.methods import METHODS, Layer, LayerMethod
from lib_layerdiffusion.page import ID
from lib_layerdiffusion.page.composing import compose_tab, endings, picture_box
from lib_layerdiffusion.page.jobs import MODEL_SAMPLER, Engine, Jobs, ModelFacts
from lib_layerdiffusion.page.style import GROUND_CLASS, file_list, ground_choice, head_line, style_sheet, theme
from lib_layerdiffusion.page.versions import taken
from lib_layerdiffusion.settings.examples import EXAMPLES

_CACHE_CHECK, _CACHE_AGE = 3600, 24 * 3600  # seconds


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    samplers: Sequence[str] = (),
    subjects: Sequence[str] = (),
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve the page until Ctrl+C.

    host: address to listen on; "0.0.0.0" lets everybody on the network in. samplers: names to choose from beside the
    model's own. subjects: what a small model knows, to choose from. announce: is told the page's address.

    Raises:
        HostError: nothing can listen there.
    """
    with served(engine, host, port, samplers=samplers, subjects=subjects) as (page, address):
        if announce is not None:
            announce(address)
        page.block_thread()


@contextmanager
def served(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    samplers: Sequence[str] = (),
    subjects: Sequence[str] = (),
) -> Iterator[tuple[gr.Blocks, str]]:
    """The page and its address for the time of a `with`; arguments and errors as `serve`."""
    with tempfile.TemporaryDirectory(prefix="layerdiffusion-page-", ignore_cleanup_errors=True) as folder:
        page = build_page(engine, Path(folder), samplers, subjects)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                _frontend=False,  # no request to itself, which fails behind a proxy and on a busy machine
                **taken(page.launch, show_api=False, theme=theme(), head=style_sheet()),
            )
        except OSError as error:
            raise HostError(f"Nothing can listen on {host}:{port}: give another --port or --host.") from error
        try:
            yield page, address
        finally:
            page.close(verbose=False)


def build_page(engine: Engine, folder: Path, samplers: Sequence[str] = (), subjects: Sequence[str] = ()) -> gr.Blocks:
    """The page, not yet served.

    samplers, subjects: as `serve`. folder: for finished pictures; it lies in the system's place for temporary files and
    lives as long as the page.
    """
    cache = (_CACHE_CHECK, _CACHE_AGE)
    jobs = Jobs(engine, folder)
    looks = taken(gr.Blocks, theme=theme(), head=style_sheet())
    with gr.Blocks(title="LayerDiffusion", analytics_enabled=False, delete_cache=cache, **looks) as page:
        finished = gr.State(None)
        with gr.Row(elem_classes=[f"{ID}_bar"]):
            head_line(engine.host.source)
            ground_choice()
        with gr.Tabs():
            with gr.Tab("Generate"):
                _generate_tab(engine, jobs, finished, samplers, subjects)
            with gr.Tab("Compose"):
                compose_tab(jobs, finished)
    return page


def _generate_tab(engine: Engine, jobs: Jobs, finished: Any, samplers: Sequence[str], subjects: Sequence[str]) -> None:
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            prompts = _prompts(subjects)
            with gr.Row():
                start = gr.Button("Generate", variant="primary", scale=3, min_width=120, elem_id=f"{ID}_generate")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id=f"{ID}_stop")
            numbers = _numbers(engine.host, samplers)
            made = _panel(engine.methods, *prompts)
            made.example.visible = not subjects  # the examples are meant for models that know everything
        with gr.Column(scale=5, min_width=300, elem_id=f"{ID}_right"):
            gallery, details = _results(jobs, finished, made)
    run = start.click(
        jobs.generate,
        [*prompts, *numbers, *made.inputs],
        [gallery, finished],
        concurrency_limit=1,
        scroll_to_output=True,
        api_name=False,
    )
    # Apart from the run, whose error would cover them all.
    run.success(jobs.details, [finished], details, show_progress="hidden", api_name=False)
    # Outside the queue, where it would wait for the very run that it is meant to stop.
    stop.click(jobs.stop, queue=False, api_name=False)


def _prompts(subjects: Sequence[str]) -> list[Any]:
    with gr.Group():
        prompt = gr.Textbox(
            next(iter(subjects), ""),
            label="Prompt",
            lines=2,
            placeholder="an apple, high quality",
            elem_id=f"{ID}_prompt",
        )
        if subjects:
            known = gr.Dropdown(
                list(subjects), value=None, label=f"This model knows {len(subjects)} subjects", elem_id=f"{ID}_subject"
            )
            known.input(None, [known], [prompt], js="(subject) => subject", api_name=False)
        negative = gr.Textbox(label="Negative prompt", lines=1, elem_id=f"{ID}_negative")
    return [prompt, negative]


def _numbers(host: ModelFacts, samplers: Sequence[str]) -> list[Any]:
    """In the order in which `Jobs.generate` takes them."""
    side = host.default_size
    with gr.Row(elem_classes=[f"{ID}_numbers"]):
        width = gr.Number(side, label="Width", precision=0, step=8, min_width=90, elem_id=f"{ID}_width")
        height = gr.Number(side, label="Height", precision=0, step=8, min_width=90, elem_id=f"{ID}_height")
        batch = gr.Number(1, label="Pictures", precision=0, step=1, min_width=90, elem_id=f"{ID}_batch")
        seed = gr.Number(-1, label="Seed (-1 random)", precision=0, scale=2, min_width=140, elem_id=f"{ID}_seed")
    with gr.Row(elem_classes=[f"{ID}_numbers"]):
        names = [MODEL_SAMPLER, *samplers]
        sampler = gr.Dropdown(
            names, value=MODEL_SAMPLER, label="Sampler", scale=2, min_width=170, elem_id=f"{ID}_sampler"
        )
        steps = gr.Number(host.steps, label="Steps", precision=0, step=1, min_width=90, elem_id=f"{ID}_steps")
        guidance = gr.Number(host.guidance, label="CFG scale", step=0.5, min_width=90, elem_id=f"{ID}_guidance")
    return [width, height, batch, seed, sampler, steps, guidance]


def _panel(methods: Sequence[LayerMethod], prompt: Any, negative: Any) -> panel.Panel:
    """The panel, for the methods that the model can run."""
    made = panel.build(_always_enabled, picture_box, lambda name: f"{ID}_{name}", prompt=prompt, negative=negative)
    dropdown, shown = made.components["method"], made.components["preview"]
    dropdown.choices = [(row.label, row.label) for row in methods]
    families = {row.family for row in methods}
    made.family.value = next(iter(families)).value if len(families) == 1 else ""
    examples = [row.name for row in EXAMPLES if any(row.method_of(family) in methods for family in families)]
    made.example.choices = [(name, name) for name in examples]
    known = [row.label for row in methods]
    if dropdown.value not in known:
        # Methods that share a short name need the same controls, so the panel's other parts fit this one as well.
        default = METHODS[dropdown.value].name
        dropdown.value = next((row.label for row in methods if row.name == default), known[0])
    # The gallery itself shows transparency on three grounds. The value stays: infotext names what is not the default.
    shown.visible = False
    return made


@contextmanager
def _always_enabled(*, value: bool, label: str, elem_id: str) -> Iterator[Any]:
    """In place of a host's switchable accordion: without layers this page has no task."""
    del value
    with gr.Column():
        yield gr.Checkbox(value=True, label=label, visible=False, elem_id=elem_id)


def _results(jobs: Jobs, finished: Any, made: panel.Panel) -> tuple[Any, list[Any]]:
    """The gallery, and the others in the order of `Jobs.details`."""
    gallery = gr.Gallery(
        label="Layers",
        show_label=False,
        columns=2,
        height="auto",
        object_fit="contain",
        format="png",
        interactive=False,
        elem_id=f"{ID}_gallery",
        elem_classes=[GROUND_CLASS],
    )
    chosen = gr.State(0)
    gallery.select(_chosen, outputs=[chosen], api_name=False)
    summary = gr.HTML(elem_id=f"{ID}_summary")
    _next_steps(jobs, finished, chosen, made)
    files = file_list(f"{ID}_files")
    _layer_files(jobs, finished, files)
    with gr.Accordion("Settings of these pictures", open=False, elem_id=f"{ID}_about"):
        copying = taken(gr.Textbox, show_copy_button=True, buttons=["copy"])
        infotext = gr.Textbox(show_label=False, lines=3, elem_id=f"{ID}_infotext", **copying)
    return gallery, [files, summary, infotext, chosen]


def _next_steps(jobs: Jobs, finished: Any, chosen: Any, made: panel.Panel) -> None:
    """Buttons that take the chosen picture to the next step."""
    method = made.components["method"]
    with gr.Row(elem_classes=[f"{ID}_steps"]):
        for layer in Layer:
            button = gr.Button(wording.use_as(layer), size="sm", min_width=110, elem_id=f"{ID}_use_as_{layer}")
            button.click(
                partial(jobs.use, layer),
                [finished, chosen, method],
                [made.components[layer.value], method],
                show_progress="hidden",
                api_name=False,
            )


def _layer_files(jobs: Jobs, finished: Any, files: Any) -> None:
    """Buttons that add files for editors to the list."""
    with gr.Row(elem_classes=[f"{ID}_steps"]):
        for ending in endings():
            elem_id = f"{ID}_save_{ending.removeprefix('.')}"
            button = gr.Button(f"Layers as one {ending}", size="sm", min_width=110, elem_id=elem_id)
            added = button.click(partial(jobs.add_layer_files, ending), [finished], [files], api_name=False)
            added.success(None, js=_download_last(ending))


def _download_last(ending: str) -> str:
    """Follows the link to the last file of that kind, once the list has drawn it."""
    return f"""() => {{
        let frames = 0;
        const follow = () => {{
            const links = [...document.querySelectorAll("#{ID}_files a[download$='{ending}']")];
            if (links.length) links.at(-1).click();
            else if (++frames < 300) requestAnimationFrame(follow);
        }};
        follow();
    }}"""


def _chosen(event: gr.SelectData) -> int:
    return int(event.index)
