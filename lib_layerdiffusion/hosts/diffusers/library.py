"""The class that users of the library know: the engine on a diffusers pipeline, from wherever its model comes."""

from __future__ import annotations

from pathlib import Path

import torch

from lib_layerdiffusion.engine.pipeline import Engine
from lib_layerdiffusion.hosts.diffusers.sources import open_source
from lib_layerdiffusion.weights import WeightStore


class LayerDiffusion(Engine):
    """An engine: one model, and everything that makes layers with it."""

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        offload: str = "none",
        weights: WeightStore | Path | str | None = None,
        compiled: bool = False,
    ) -> LayerDiffusion:
        """Load a model.

        source: a `.safetensors` checkpoint, a folder in diffusers layout, or "owner/name" on a hub; None for the
        bundled family. dtype: default float16 on a GPU and float32 on a CPU; there the transparency decoder takes
        bfloat16 where the CPU has it, unless float32 is said outright. device: default the best there is. offload:
        "none", "model" or "sequential" (slower and smaller; they need a GPU). weights: folder of the layer files, or a
        store. compiled: compile the transparency decoder, which is faster for many pictures of one size; the first of
        every size waits a minute or two, what was made is kept for later starts.

        Raises:
            LayerDiffusionError: it cannot be loaded; the message says why.
        """
        host, store = open_source(source, dtype=dtype, device=device, offload=offload, weights=weights)
        return cls(host, store, compiled=compiled)
