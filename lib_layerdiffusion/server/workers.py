"""Who carries runs out: an engine in this process; `ray_serve` has engines on other machines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lib_layerdiffusion.engine.request import Progress
from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.arithmetic import to_uint8
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.server.asking import Asked
from lib_layerdiffusion.transparency import LatentTransparency, rgba_arrays
from lib_layerdiffusion.weights import FileStatus


class Worker(Protocol):
    """One engine; its calls wait for each other."""

    def run(self, asked: Asked, progress: Progress) -> Result:
        """Carry out a run; what `progress` raises ends it.

        Raises:
            LayerDiffusionError: it cannot be done.
        """
        ...

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """As `routes.RouteHost.encode`."""
        ...

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """As `routes.RouteHost.decode`."""
        ...

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files by their catalogue names."""
        ...


class LocalWorker:
    """An engine in this process."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._lock = threading.Lock()

    def run(self, asked: Asked, progress: Progress) -> Result:
        """Carry out a run."""
        with self._lock:
            function = getattr(self._engine, asked.kind)
            return function(**asked.arguments, progress=progress)

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """Hide a picture's alpha in its latent.

        Raises:
            LayerDiffusionError: the size is no multiple of 8, or the encoder is missing.
        """
        height, width = rgba.shape[:2]
        if height % 8 or width % 8:
            raise InputError(f"Width and height must be multiples of 8; {width}x{height} is not.")
        with self._lock:
            host = self._engine.host
            latent = self._engine.encode(rgba)
            pixels = host.decode_latents(latent * host.scaling)
            return to_uint8(pixels[0].permute(1, 2, 0).float().cpu().numpy()), latent.float().cpu(), host.family()

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """RGBA of a latent in the VAE's scale, with the picture that the VAE makes of it or the given one.

        Raises:
            LayerDiffusionError: they do not belong together, or the decoder is missing.
        """
        engine = self._engine
        with self._lock:
            host = engine.host
            decoder = host.placed(engine.store.decoder(host.family() if family is None else family))
            pixels = host.decode_latents(latent * host.scaling) if picture is None else _tensor(picture)
            return rgba_arrays(LatentTransparency(decoder=decoder).decode(pixels, latent.to(pixels), passes=passes))[0]

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files by their catalogue names."""
        return {status.file.name: status for status in self._engine.store.status()}


def _tensor(picture: Picture) -> Tensor:
    """uint8 [H, W, 4] -> float32 [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(picture[..., :3].astype(np.float32) / 255.0).permute(2, 0, 1)[None]
