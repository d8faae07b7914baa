"""A page of its own: the panel, with everything that a host's page has around it, on one engine.

The engine makes one run at a time; further ones wait in gradio's queue.
"""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from lib_layerdiffusion import panel
from lib_layerdiffusion.errors import HostError, LayerDiffusionError
from lib_layerdiffusion.images import CHECKER_CELL, CHECKER_GREYS
from lib_layerdiffusion.methods import METHODS, Layer, LayerMethod
from lib_layerdiffusion.request import PictureRequest, random_seed
from lib_layerdiffusion.results import Result
from lib_layerdiffusion.settings import LayerSettings

ID = "layerdiffusion"
GROUNDS = ("checkerboard", "light", "dark")
MODEL_SAMPLER = "the model's own"
_STAGES = {"sample": "Sampling", "decode": "Decoding transparency"}
_CACHE_CHECK, _CACHE_AGE = 3600, 24 * 3600  # seconds


class ModelFacts(Protocol):
    """What the page shows of a model, and the model's defaults. default_size: side of its pictures in pixels."""

    source: str
    steps: int
    guidance: float

    @property
    def default_size(self) -> int: ...  # noqa: D102 - see above


class Engine(Protocol):
    """What the page needs of an engine; `LayerDiffusion` is one, and says what each of these does."""

    @property
    def host(self) -> ModelFacts: ...  # noqa: D102 - see above

    @property
    def methods(self) -> Sequence[LayerMethod]: ...  # noqa: D102 - see above

    def run(self, request: PictureRequest) -> Result: ...  # noqa: D102 - see above


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    samplers: Sequence[str] = (),
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve the page until Ctrl+C.

    host: address to listen on; "0.0.0.0" lets everybody on the network in. samplers: names to choose from beside the
    model's own. announce: is told the page's address.

    Raises:
        HostError: nothing can listen there.
    """
    with served(engine, host, port, samplers=samplers) as (page, address):
        if announce is not None:
            announce(address)
        page.block_thread()


@contextmanager
def served(
    engine: Engine, host: str = "127.0.0.1", port: int = 7860, *, samplers: Sequence[str] = ()
) -> Iterator[tuple[gr.Blocks, str]]:
    """The page and its address for the time of a `with`; arguments and errors as `serve`."""
    with tempfile.TemporaryDirectory(prefix="layerdiffusion-page-", ignore_cleanup_errors=True) as folder:
        page = build_page(engine, Path(folder), samplers)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                show_api=False,
                _frontend=False,  # no request to itself, which fails behind a proxy and on a busy machine
            )
        except OSError as error:
            raise HostError(f"Nothing can listen on {host}:{port}: give another --port or --host.") from error
        try:
            yield page, address
        finally:
            page.close(verbose=False)


def build_page(engine: Engine, folder: Path, samplers: Sequence[str] = ()) -> gr.Blocks:
    """The page, not yet served.

    folder: for finished pictures; it lies in the system's place for temporary files and lives as long as the page.
    """
    # Plain font names: gradio's own theme has every browser fetch fonts from afar.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    cache = (_CACHE_CHECK, _CACHE_AGE)
    with gr.Blocks(theme, title="LayerDiffusion", css=_css(), analytics_enabled=False, delete_cache=cache) as page:
        gr.Markdown(f"# LayerDiffusion\n\nModel: {html.escape(engine.host.source)}")
        with gr.Row():
            with gr.Column():
                prompts = _prompts()
                with gr.Row():
                    start = gr.Button("Generate", variant="primary", min_width=100, elem_id=f"{ID}_generate")
                    stop = gr.Button("Stop", min_width=100, elem_id=f"{ID}_stop")
                numbers = _numbers(engine.host, samplers)
                made = _panel(engine.methods)
            with gr.Column():
                gallery, *others = _results(made)
                finished = gr.State(())
        jobs = _Jobs(engine, folder)
        inputs = [*prompts, *numbers, *made.inputs]
        run = start.click(
            jobs.generate, inputs, [gallery, finished], concurrency_limit=1, scroll_to_output=True, api_name=False
        )
        # Apart from the run, whose error would cover them all.
        run.success(list, [finished], others, show_progress="hidden", api_name=False)
        # Outside the queue, where it would wait for the very run that it is meant to stop.
        stop.click(jobs.stop, queue=False, api_name=False)
    return page


def _prompts() -> list[Any]:
    return [
        gr.Textbox(label="Prompt", lines=2, placeholder="an apple, high quality", elem_id=f"{ID}_prompt"),
        gr.Textbox(label="Negative prompt", lines=1, elem_id=f"{ID}_negative"),
    ]


def _numbers(host: ModelFacts, samplers: Sequence[str]) -> list[Any]:
    """In the order in which `_Jobs.generate` takes them."""
    side = host.default_size
    with gr.Row():
        width = gr.Number(side, label="Width", precision=0, step=8, min_width=90, elem_id=f"{ID}_width")
        height = gr.Number(side, label="Height", precision=0, step=8, min_width=90, elem_id=f"{ID}_height")
        seed = gr.Number(-1, label="Seed (-1: random)", precision=0, min_width=120, elem_id=f"{ID}_seed")
    with gr.Row():
        names = [MODEL_SAMPLER, *samplers]
        sampler = gr.Dropdown(names, value=MODEL_SAMPLER, label="Sampler", min_width=160, elem_id=f"{ID}_sampler")
        steps = gr.Number(host.steps, label="Steps", precision=0, step=1, min_width=90, elem_id=f"{ID}_steps")
        guidance = gr.Number(host.guidance, label="CFG scale", step=0.5, min_width=90, elem_id=f"{ID}_guidance")
    return [width, height, seed, sampler, steps, guidance]


def _panel(methods: Sequence[LayerMethod]) -> panel.Panel:
    """The panel, for the methods that the model can run."""
    made = panel.build(_always_enabled, _picture, lambda name: f"{ID}_{name}")
    dropdown, shown = made.components["method"], made.components["preview"]
    dropdown.choices = [(row.label, row.label) for row in methods]
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


def _picture(*, elem_id: str) -> Any:
    box = gr.Image(show_label=False, sources=["upload", "clipboard"], height=240, elem_id=elem_id)
    # The file as it is: gradio would convert it without a word about what it cannot read, 16 bits and animations.
    box.preprocess = _content
    return box


def _content(payload: Any) -> bytes | None:
    return None if payload is None else Path(payload.path).read_bytes()


def _results(made: panel.Panel) -> list[Any]:
    """The gallery, and the others in the order of `_Jobs.generate`."""
    gallery = gr.Gallery(
        label="Layers",
        columns=2,
        height="auto",
        object_fit="contain",
        format="png",
        interactive=False,
        elem_id=f"{ID}_gallery",
    )
    ground = gr.Radio(GROUNDS, value=GROUNDS[0], label="Show on", elem_id=f"{ID}_ground")
    ground.change(
        None, [ground], js=f"(ground) => {{ document.getElementById('{ID}_gallery').dataset.ground = ground }}"
    )
    paths, chosen = gr.State([]), gr.State(0)
    gallery.select(_chosen, outputs=[chosen], api_name=False)
    with gr.Row():
        for layer in Layer:
            button = gr.Button(f"Use as {layer}", size="sm", min_width=110, elem_id=f"{ID}_use_as_{layer}")
            button.click(_reused, [paths, chosen], [made.components[layer.value]], api_name=False)
    summary = gr.Markdown(elem_id=f"{ID}_summary")
    files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id=f"{ID}_files")
    infotext = gr.Textbox(label="Settings of these pictures", lines=3, show_copy_button=True, elem_id=f"{ID}_infotext")
    return [gallery, files, summary, infotext, paths, chosen]


def _chosen(event: gr.SelectData) -> int:
    return int(event.index)


def _reused(paths: Sequence[str], chosen: int) -> str:
    if not paths:
        raise gr.Error("There is no picture to use yet: generate one first.")
    return paths[min(chosen, len(paths) - 1)]


class _Jobs:
    """What the buttons do. folder: where finished pictures are kept."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._running: str | None = None
        self._stopped: str | None = None

    def stop(self, request: gr.Request) -> None:
        """End the run of this visitor at its next step."""
        self._stopped = self._running if self._running == request.session_hash else None

    def generate(
        self,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 - gradio finds it here
        *values: Any,
    ) -> tuple[Any, ...]:
        """Values in the order of the page -> gallery; files, summary, infotext, paths, chosen picture."""
        self._running, self._stopped = request.session_hash, None

        def report(stage: str, done: int, total: int) -> None:
            if self._stopped is not None:
                raise gr.Error("Stopped.", duration=3)
            progress((done, total), desc=_STAGES.get(stage, stage), unit="steps")

        try:
            result = self._engine.run(_request(values, report))
            return self._finished(result)
        except LayerDiffusionError as error:
            # gradio shows messages as HTML.
            raise gr.Error(html.escape(str(error)), duration=None) from error
        finally:
            self._running = None

    def _finished(self, result: Result) -> tuple[Any, ...]:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        captioned: list[tuple[str, str]] = []
        for image in result.images:
            written = image.save(folder, f"{result.settings.method.name}-{image.seed}")
            captioned += [(str(path), name) for name, path in written.items()]
        paths = [path for path, _ in captioned]
        seconds = sum(result.timings.values())
        summary = [f"Seed {result.seed}, {seconds:.1f} seconds.", *map(html.escape, result.notes)]
        return captioned, (paths, "\n\n".join(summary), result.images[0].infotext, paths, 0)


def _request(values: Sequence[Any], report: Callable[[str, int, int], None]) -> PictureRequest:
    """What the page asks for.

    Raises:
        LayerDiffusionError: a value cannot be used, or a picture is missing.
    """
    prompt, negative, width, height, seed, sampler, steps, guidance, *of_panel = values
    settings = LayerSettings.from_args(of_panel)
    settings.condition_pictures()
    return PictureRequest(
        prompt=prompt,
        negative=negative,
        settings=settings,
        seed=random_seed() if seed is None or seed == -1 else seed,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        sampler="" if sampler == MODEL_SAMPLER else sampler,
        progress=report,
    )


def _css() -> str:
    dim, bright = (f"rgb({round(grey * 255)} {round(grey * 255)} {round(grey * 255)})" for grey in CHECKER_GREYS)
    cell = CHECKER_CELL // 2
    return f"""
#{ID}_gallery img {{
    background: repeating-conic-gradient({bright} 0 25%, {dim} 0 50%) 0 0 / {cell}px {cell}px;
}}
#{ID}_gallery[data-ground="light"] img {{ background: #ffffff; }}
#{ID}_gallery[data-ground="dark"] img {{ background: #1a1a1a; }}
"""
