"""The family of the checkpoint that the host has loaded."""

from __future__ import annotations

from typing import Any

from lib_layerdiffusion.errors import ModelError
from lib_layerdiffusion.methods import Family


def family_of(sd_model: Any) -> Family:
    """The family of a loaded checkpoint.

    Raises:
        ModelError: no method is made for it, or nothing is loaded.
    """
    if getattr(sd_model, "forge_objects", None) is None:
        raise ModelError("No checkpoint is loaded: choose an SD1.5 or SDXL checkpoint first.")
    name = type(sd_model).__name__
    if getattr(sd_model, "is_sd1", False):
        return Family.SD15
    if getattr(sd_model, "is_sdxl", False) and "Refiner" not in name:
        return Family.SDXL
    raise ModelError(
        f"LayerDiffusion is made for SD1.5 and SDXL checkpoints and the loaded one is {name}: choose another."
    )


def loaded_family(sd_model: Any) -> Family | None:
    """The family of what is loaded now, None where that is nothing or unsupported: tells short method names apart."""
    try:
        return family_of(sd_model)
    except ModelError:
        return None
