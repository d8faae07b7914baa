"""The decoder made by torch.compile: optional, because the first picture of every size waits a minute or two for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from lib_layerdiffusion.errors import is_out_of_memory
from lib_layerdiffusion.networks.transparent_decoder import TransparentDecoder

_log = logging.getLogger(__name__)


class CompiledDecoder:
    """Calls of a decoder, compiled for the sizes that come; where that cannot be done, the decoder as it is.

    folder: where torch keeps what it has made for later starts, unless the environment says where
    (TORCHINDUCTOR_CACHE_DIR). A C++ compiler is needed on a CPU, triton on a GPU.
    """

    def __init__(self, decoder: TransparentDecoder, folder: Path) -> None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
        os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
        self._decoder = decoder
        # Weights are packed once, as constants, for a CPU's convolutions; nobody has measured it on GPUs.
        on_cpu = next(decoder.parameters()).device.type == "cpu"
        self._compiled = torch.compile(decoder, options={"freezing": True} if on_cpu else None)
        self._told = False

    def __call__(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """`TransparentDecoder.forward`."""
        if self._compiled is None:
            return self._decoder(pixels, latent)
        if not self._told:
            self._told = True
            _log.info("The transparency decoder is being compiled for this size: a minute or two, once.")
        try:
            return self._compiled(pixels, latent)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._compiled = None
            _log.warning("The transparency decoder cannot be compiled (%s): it is used as it is.", _first_line(error))
        return self._decoder(pixels, latent)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
