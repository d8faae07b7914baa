"""Where things lie on a machine without Forge."""

from __future__ import annotations

import os
from pathlib import Path

MODELS_DIR = "LAYERDIFFUSION_MODELS_DIR"
RANDOM_MODEL = "random weights made on the spot, a demonstration without meaning: give a checkpoint for real pictures"


def bundled_family() -> Path | None:
    """The folder of the family that comes with this package, None where it was left out."""
    here = Path(__file__).resolve()
    places = (here.parents[1] / "models" / "demo", here.parents[0] / "models" / "demo")
    return next((place for place in places if (place / "model_index.json").is_file()), None)


def default_weights_folder() -> Path:
    """Where layer files are kept without Forge; the environment's LAYERDIFFUSION_MODELS_DIR names another place."""
    named = os.environ.get(MODELS_DIR)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "layerdiffusion"
