"""The reference extension's own modules, from a checkout of it, without the host that they import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lib_layerdiffusion.networks.sharing_run import attend


class Reference:
    """Networks of `lllyasviel/sd-forge-layerdiffuse` at `folder`; they need diffusers and einops."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _host_modules():
            self._models = _module("reference_models", folder / "lib_layerdiffusion" / "models.py")
            self._sharing = _module("reference_sharing", folder / "lib_layerdiffusion" / "attention_sharing.py")

    def decoder(self, state: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> Any:
        """Its decoder; `estimate_augmented(pixels, latent)` is its eight views and their median."""
        with torch.device("meta"):
            network = self._models.UNet1024(in_channels=3, out_channels=4)
        network.load_state_dict(state, strict=True, assign=True)
        decoder = object.__new__(self._models.TransparentVAEDecoder)
        decoder.model = _Holder(network.eval().requires_grad_(False).to(device, dtype))
        self._models.tqdm = lambda views: views
        return decoder

    def encoder(self, state: dict[str, torch.Tensor]) -> Any:
        """Its encoder's network."""
        network = self._models.LatentTransparencyOffsetEncoder()
        network.load_state_dict(state)
        return network.eval().requires_grad_(False)

    def unit(self, layer: Any, frames: int, state: dict[str, torch.Tensor]) -> Any:
        """Its unit around an attention layer."""
        unit = self._sharing.AttentionSharingUnit(layer, frames=frames, use_control=False)
        unit.load_state_dict(state, strict=False)
        return unit.eval().requires_grad_(False).to(next(iter(state.values())))

    def pad_rgb(self, picture: Any) -> Any:
        """Its padding of colours."""
        return self._models.pad_rgb(picture)


class _Holder:
    def __init__(self, model: Any) -> None:
        self.model = model


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f'"{path}" is missing: give the folder of a checkout of the reference extension.')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _host_modules() -> Iterator[None]:
    """What the reference imports of a host: names only, but for the attention function, which is torch's for both."""
    attention = ModuleType("backend.attention")
    attention.attention_function = attend  # type: ignore[attr-defined]
    base = ModuleType("backend.patcher.base")
    base.ModelPatcher = object  # type: ignore[attr-defined]
    backend = ModuleType("backend")
    parts = {name: ModuleType(f"backend.{name}") for name in ("memory_management", "utils", "patcher")}
    vision = ModuleType("torchvision")
    vision.transforms = ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
    for name, part in {**parts, "attention": attention}.items():
        setattr(backend, name, part)
    modules = {f"backend.{name}": part for name, part in parts.items()}
    modules |= {"backend": backend, "backend.attention": attention, "backend.patcher.base": base}
    if importlib.util.find_spec("torchvision") is None:
        modules["torchvision"] = vision
    # diffusers looks for torchvision itself, and must not find what stands in for it.
    importlib.import_module("diffusers.models.unets.unet_2d_blocks")
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
