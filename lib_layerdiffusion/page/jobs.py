"""What the page's buttons do: a run of the engine, its files, and layers for an editor."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from lib_layerdiffusion.engine.request import PictureRequest, random_seed
from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.images.files import write_png
from lib_layerdiffusion.methods import METHODS, Layer, LayerMethod
from lib_layerdiffusion.page import ID
from lib_layerdiffusion.page.versions import taken
from lib_layerdiffusion.settings.parsing import LayerSettings

MODEL_SAMPLER = "the model's own"
_STAGES = {"sample": "Sampling", "decode": "Decoding transparency"}


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


@dataclass(frozen=True)
class Finished:
    """A run that ended well. folder: of its files. paths: of its pictures, in the order of the gallery."""

    result: Result
    folder: Path
    paths: tuple[str, ...]

    def stem(self, index: int) -> str:
        """File name without ending of picture `index`."""
        return f"{self.result.settings.method.name}-{self.result.images[index].seed}"


@contextmanager
def told() -> Iterator[None]:
    """Show the user's mistakes on the page, as text: gradio takes messages for HTML."""
    try:
        yield
    except LayerDiffusionError as error:
        quietly = taken(gr.Error, print_exception=False)
        raise gr.Error(html.escape(str(error)), duration=None, **quietly) from error


class Jobs:
    """Runs on one engine. folder: where finished pictures are kept."""

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
    ) -> tuple[Any, Finished]:
        """Values in the order of the page -> gallery, and what else there is to show."""
        self._running, self._stopped = request.session_hash, None

        def report(stage: str, done: int, total: int) -> None:
            if self._stopped is not None:
                raise gr.Error("Stopped.", duration=3)
            progress((done, total), desc=_STAGES.get(stage, stage), unit="steps")

        try:
            with told():
                return self._saved(self._engine.run(_request(values, report)))
        finally:
            self._running = None

    def _saved(self, result: Result) -> tuple[Any, Finished]:
        finished = Finished(result, self.new_folder(), ())
        captioned: list[tuple[str, str]] = []
        for index, image in enumerate(result.images):
            written = image.save(finished.folder, finished.stem(index))
            captioned += [(str(path), name) for name, path in written.items()]
        finished = Finished(result, finished.folder, tuple(path for path, _ in captioned))
        return gr.Gallery(captioned, columns=1 if len(captioned) == 1 else 2, selected_index=None), finished

    def new_folder(self) -> Path:
        """An empty folder for files that the page offers."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def details(self, finished: Finished) -> tuple[Any, ...]:
        """What is shown beside the gallery: files, summary, infotext, chosen picture."""
        result = finished.result
        seconds = sum(result.timings.values())
        notes = "".join(f'<p class="{ID}_note">{html.escape(note)}</p>' for note in result.notes)
        summary = f"{notes}<p>Seed {result.seed}, {seconds:.1f} seconds.</p>"
        return list(finished.paths), summary, result.images[0].infotext, 0

    def add_layer_files(self, ending: str, finished: Finished | None) -> list[str]:
        """Write every picture's layers as one file -> all files of the run, these last."""
        with told():
            made = _there(finished)
            for index in range(len(made.result.images)):
                made.result.save_layers(made.folder / f"{made.stem(index)}{ending}", index)
            others = sorted(path for path in made.folder.iterdir() if path.suffix not in {".png", ending})
            new = sorted(made.folder.glob(f"*{ending}"))
            return [*made.paths, *map(str, others), *map(str, new)]

    def use(self, layer: Layer, finished: Finished | None, chosen: int, label: str) -> tuple[str, Any]:
        """The chosen picture's file, and the method that goes on from it where the model has one."""
        with told():
            paths = _there(finished).paths
        method = METHODS.next_step(METHODS[label], layer)
        goes_on = method.label if method is not None and method in self._engine.methods else gr.update()
        return paths[min(chosen, len(paths) - 1)], goes_on

    def layers_to_compose(self, finished: Finished | None) -> tuple[str | None, str | None]:
        """Foreground and background of the first picture, those that it was made with among them."""
        with told():
            made = _there(finished)
            written: Mapping[str, str] = {
                layer.name: self._written(made.folder / f"layer-{layer.name}.png", layer.picture)
                for layer in made.result.layer_set()
            }
        below = written.get(Layer.BACKGROUND, written.get(Layer.BLENDED))
        return written.get(Layer.FOREGROUND), below

    @staticmethod
    def _written(path: Path, picture: Any) -> str:
        write_png(path, picture)
        return str(path)


def _there(finished: Finished | None) -> Finished:
    if finished is None:
        raise InputError("There is no picture to use yet: generate one first.")
    return finished


def _request(values: Sequence[Any], report: Callable[[str, int, int], None]) -> PictureRequest:
    """What the page asks for.

    Raises:
        LayerDiffusionError: a value cannot be used, or a picture is missing.
    """
    prompt, negative, width, height, batch, seed, sampler, steps, guidance, *of_panel = values
    settings = LayerSettings.from_args(of_panel)
    settings.condition_pictures()
    return PictureRequest(
        prompt=prompt,
        negative=negative,
        settings=settings,
        seed=random_seed() if seed is None or seed == -1 else seed,
        width=width,
        height=height,
        batch=batch,
        steps=steps,
        guidance=guidance,
        sampler="" if sampler == MODEL_SAMPLER else sampler,
        progress=report,
    )
