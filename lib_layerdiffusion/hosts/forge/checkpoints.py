"""The family of the chosen checkpoint, before the host has loaded it: from the names and shapes in its file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from modules import sd_models, shared
from safetensors import SafetensorError, safe_open

from lib_layerdiffusion.methods import Family

_UNET = "model.diffusion_model."
# The width of the text that is attended to tells Stable Diffusion 1 (768) from 2, and XL (2048) from its refiner.
_SIGNS = (
    (Family.SD15, f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 768),
    (Family.SDXL, f"{_UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", 2048),
)


def chosen_family(name: str | None = None) -> tuple[Family | None, bool]:
    """The family of the checkpoint that is chosen on the page, and whether it is known at all.

    name: of the checkpoint; by default the one in the host's options. (None, True) means that it is of a family without
    methods.
    """
    wanted = name or getattr(shared.opts, "sd_model_checkpoint", None)
    find = getattr(sd_models, "get_closet_checkpoint_match", None)  # spelt so by the host
    info: Any = find(wanted) if find is not None and wanted else None
    path = Path(info.filename) if info is not None else None
    if path is None or path.suffix != ".safetensors" or not path.is_file():
        return None, False
    return _family_in(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _family_in(path: Path, _changed: int) -> tuple[Family | None, bool]:
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for family, name, width in _SIGNS:
                if name in names:
                    return (family, True) if file.get_slice(name).get_shape()[1] == width else (None, True)
    except (OSError, SafetensorError):
        return None, False
    return None, True
