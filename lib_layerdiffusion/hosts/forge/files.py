"""Layer files in Forge's folder."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from modules import paths, shared
from safetensors.torch import load_file
from torch import Tensor

from lib_layerdiffusion.errors import WeightsError


class LayerFiles:
    """The folder that holds layer files: `layer_model` beside the checkpoints, or where the command line says."""

    @property
    def folder(self) -> Path:
        """Where files are looked for and put."""
        chosen = getattr(shared.cmd_opts, "layerdiffusion_models_dir", None)
        return Path(chosen) if chosen else Path(paths.models_path) / "layer_model"

    def path(self, name: str) -> Path:
        """Where a file of the catalogue belongs."""
        return self.folder / f"{name}.safetensors"

    def fetch(self, name: str) -> Path:
        """Make sure that the file is there."""
        path = self.path(name)
        if not path.is_file():
            raise WeightsError(f"{path} is missing.")
        return path

    def stamp(self, name: str) -> Hashable:
        """Changes when the file does."""
        status = self.path(name).stat()
        return (str(self.path(name)), status.st_size, status.st_mtime_ns)

    def read(self, name: str) -> dict[str, Tensor]:
        """The file's tensors, memory-mapped."""
        return load_file(self.path(name))
