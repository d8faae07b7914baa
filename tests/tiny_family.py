"""Random pipelines and layer files of the smallest size, for tests of the diffusers host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost, ModelCard
from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion
from lib_layerdiffusion.hosts.diffusers.tiny import layer_files, tiny_pipeline
from lib_layerdiffusion.methods import METHODS, Family, LayerMethod
from lib_layerdiffusion.unet.injection import Injection, read_layer_weights
from lib_layerdiffusion.weights import WeightStore

ALL_METHODS = tuple(METHODS.values())
FAMILIES = (Family.SDXL, Family.SD15)


@lru_cache(maxsize=2)
def shared_pipeline(*, xl: bool = False) -> Any:
    """A pipeline that tests may inject into, for they leave it as it was."""
    return tiny_pipeline(xl=xl)


@lru_cache(maxsize=2)
def shared_files(*, xl: bool = False) -> Mapping[str, dict[str, torch.Tensor]]:
    """The layer files of `shared_pipeline`."""
    return dict(layer_files(shared_pipeline(xl=xl).unet))


def injection(method: LayerMethod, *, xl: bool = False, size: int = 64, **values: Any) -> Injection:
    """An injection of a method's random file with random condition pictures."""
    generator = torch.Generator().manual_seed(7)
    pictures = tuple(torch.rand(1, 3, size, size, generator=generator) for _ in method.inputs)
    weights = read_layer_weights(method, shared_files(xl=xl)[method.weights])
    return Injection(method, weights, conditions=values.pop("conditions", pictures), **values)


def write_layers(folder: Path) -> Path:
    """Write all layer files of `shared_pipeline`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shared_files().items():
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def write_family(folder: Path) -> Path:
    """Write `shared_pipeline` with its layer files and a card, as a family that brings its own comes."""
    shared_pipeline().save_pretrained(folder)
    write_layers(folder / "layers")
    card = {"name": "tiny", "steps": 2, "guidance": 1.5, "decode_passes": 2}
    (folder / "layerdiffusion.json").write_text(json.dumps(card))
    return folder


def new_card(families: tuple[Family, ...] = FAMILIES) -> ModelCard:
    """What a tiny family says of itself."""
    return ModelCard(name="tiny", source="a test", families=families, steps=3, guidance=3.0)


def new_engine(layers: Path, families: tuple[Family, ...] = FAMILIES) -> LayerDiffusion:
    """An engine on a pipeline of its own, in float32 on every CPU: a random decoder makes much of little."""
    host = EngineHost(tiny_pipeline(), new_card(families), exact=True)
    return LayerDiffusion(host, WeightStore([layers], may_fetch=False))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A random RGBA picture."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8))


def snapshot(pipeline: Any) -> dict[str, torch.Tensor]:
    """Copies of everything in a pipeline's UNet and VAE."""
    parts = {"unet": pipeline.unet, "vae": pipeline.vae}
    return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def changed(pipeline: Any, before: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of what differs from a snapshot, be it by a bit, by shape or by being there."""
    now = snapshot(pipeline)
    keys = now.keys() | before.keys()
    return sorted(key for key in keys if key not in now or key not in before or not torch.equal(now[key], before[key]))
