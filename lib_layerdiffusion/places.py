"""Where things lie on a machine without Forge."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

MODELS_DIR = "LAYERDIFFUSION_MODELS_DIR"
RANDOM_MODEL = "random weights made on the spot, a demonstration without meaning: give a checkpoint for real pictures"


_CLIP_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_CLIP_PACKAGES = ("clip", "open_clip")


def clip_merges() -> Path | None:
    """CLIP's merge list inside an installed package, found without importing that package; None where there is none."""
    for package in _CLIP_PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / _CLIP_MERGES
            if path.is_file():
                return path
    return None


def models_folder() -> Path:
    """The folder `models` that comes with this package: inside it where it was installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def localizations_folder() -> Path:
    """The folder `localizations` that comes with this package, as `models_folder`."""
    package = Path(__file__).resolve().parent
    inside = package / "localizations"
    return inside if inside.is_dir() else package.parent / "localizations"


def bundled_family() -> Path | None:
    """The folder of the family that comes with this package, None where it was left out."""
    place = models_folder() / "demo"
    return place if (place / "model_index.json").is_file() else None


def compiled_folder() -> Path:
    """Where compiled networks are kept for later starts."""
    return Path.home() / ".cache" / "layerdiffusion" / "compiled"


def default_weights_folder() -> Path:
    """Where layer files are kept without Forge; the environment's LAYERDIFFUSION_MODELS_DIR names another place."""
    named = os.environ.get(MODELS_DIR)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "layerdiffusion"
