"""What lies behind the app's routes: one model, its workers, the runs, and the pictures that were sent in."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.images.compose import trimmed
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.server import uploads as sent
from lib_layerdiffusion.server.asking import RESULT, Desk
from lib_layerdiffusion.server.faults import BusyError, MissingError
from lib_layerdiffusion.server.jobs import Board, Job
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.uploads import Uploads
from lib_layerdiffusion.server.views import job_view, layer_image, png_of, stem_of
from lib_layerdiffusion.server.workers import Worker
from lib_layerdiffusion.weights import FileStatus

_UPLOAD = re.compile(rf"{sent.PREFIX}[0-9a-f]{{32}}")


class Service:
    """One server's state, and the model as `routes.RouteHost` sees it.

    web: folder of the page, None where there is none.
    """

    def __init__(
        self, workers: Sequence[Worker], facts: ModelFacts, limits: Limits | None = None, web: Path | None = None
    ) -> None:
        self.workers, self.facts, self.limits, self.web = workers, facts, limits or Limits(), web
        self.uploads = Uploads(self.limits)
        self.board = Board(workers, self.limits)
        self.desk = Desk(facts, self.uploads, self.find, self.limits)
        self._turn = itertools.cycle(workers)
        self._tools = threading.BoundedSemaphore(self.limits.tools)

    def view(self, job: Job) -> dict[str, object]:
        """A run as JSON."""
        return job_view(job, self.board, self.facts.unknown_words(*job.asked.prompts))

    def thumbnails(self) -> dict[str, str]:
        """Pictures of subjects that the page brings along: name without ending -> address."""
        folder = self.web / "thumbnails" if self.web is not None else None
        paths = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
        return {path.stem: f"/thumbnails/{path.name}" for path in paths if path.suffix in {".webp", ".png", ".jpg"}}

    # The route host

    def loaded_family(self) -> Family | None:
        """The default family of the loaded model."""
        return self.facts.families[0]

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files by their catalogue names."""
        return self.workers[0].files()

    def find(self, value: object) -> object:
        """The picture that a request's value names, or the value itself.

        Raises:
            MissingError: there is none of that name.
        """
        if isinstance(value, str) and _UPLOAD.fullmatch(value):
            return self.uploads.find(value).content
        if isinstance(value, str) and RESULT.fullmatch(value):
            return self.result_image(value)[0]
        return value

    def default_passes(self) -> int:
        """The model's decode passes."""
        return self.facts.decode_passes

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """Hide a picture's alpha in its latent.

        Raises:
            LayerDiffusionError: the picture cannot be used, or too many are waiting.
        """
        with self._a_tool():
            return next(self._turn).encode(rgba)

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """RGBA of a latent.

        Raises:
            LayerDiffusionError: it cannot be used, or too many are waiting.
        """
        with self._a_tool():
            return next(self._turn).decode(latent, picture, family, passes)

    def _a_tool(self) -> _Permit:
        return _Permit(self._tools)

    # Pictures

    def result_image(self, name: str) -> tuple[Image.Image, str, str]:
        """A result by its name: the picture, its infotext, and a file name without ending.

        Raises:
            MissingError: there is none.
        """
        found = RESULT.fullmatch(name)
        if found is None:
            raise MissingError("There is no such picture.")
        job = self.board.find(found[1])
        image = layer_image(job, int(found[2]), found[3])
        return image, job.picture(int(found[2])).infotext, f"{stem_of(job, int(found[2]))}-{found[3]}"

    def picture_file(self, name: str, trim: int | None = None) -> tuple[bytes, str]:
        """PNG and file name of a result or an upload. trim: margin in pixels around what is not transparent.

        Raises:
            LayerDiffusionError: there is none, or nothing of it is left.
        """
        if _UPLOAD.fullmatch(name):
            picture = read_picture(self.uploads.find(name).content, "sent")
            image, infotext, stem = Image.fromarray(cast("Picture", picture)), "", "picture"
        else:
            image, infotext, stem = self.result_image(name)
        if trim is not None:
            image = Image.fromarray(trimmed(np.array(image.convert("RGBA")), trim).picture)
        return png_of(image, infotext), f"{stem}.png"


class _Permit:
    """One of a limited number of calls at a time; whoever comes when all are taken is sent away."""

    def __init__(self, semaphore: threading.BoundedSemaphore) -> None:
        self._semaphore = semaphore

    def __enter__(self) -> None:
        if not self._semaphore.acquire(blocking=False):
            raise BusyError("Too many pictures are being encoded or decoded: try again in a while.")

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()
