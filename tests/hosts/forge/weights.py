"""Layer files of the fake host's size: the published names and grammar, random values."""

from __future__ import annotations

from pathlib import Path

import torch
from fakehost.model import CONTEXT, WIDTH
from safetensors.torch import save_file

from lib_layerdiffusion.methods import METHODS, VAE_FILES, LayerMethod, Technique
from lib_layerdiffusion.networks import AttentionSharing, TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.unet.injection import KEY_PREFIX

BLOCKS = ("input_blocks.1.1", "output_blocks.0.1", "middle_block.1")
ATTENTIONS = tuple(f"{block}.transformer_blocks.0.{name}" for block in BLOCKS for name in ("attn1", "attn2"))


def randomised(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: (0.3 * torch.randn(value.shape, generator=generator)).contiguous()
        for key, value in module.state_dict().items()
    }


def sharing_file(method: LayerMethod, seed: int) -> dict[str, torch.Tensor]:
    widths = [(WIDTH, CONTEXT if name.endswith("attn2") else None) for name in ATTENTIONS]
    channels = (4, 4, 4, 8) if method.inputs else None
    module = AttentionSharing(widths, frames=method.frame_count, rank=2, condition_channels=channels, condition_sizes=2)
    return randomised(module, seed)


def offsets_file(method: LayerMethod, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in ATTENTIONS:
        key = f"{KEY_PREFIX}{name}.to_q.weight"
        tensors[f"{key}::lora::0"] = torch.randn(WIDTH, 2, generator=generator)
        tensors[f"{key}::lora::1"] = 0.3 * torch.randn(2, WIDTH, generator=generator)
    if method.inputs:
        widened = 0.3 * torch.randn(WIDTH, 4 + 4 * len(method.inputs), 3, 3, generator=generator)
        tensors[f"{KEY_PREFIX}input_blocks.0.0.weight::diff::0"] = widened
    return tensors


def lora(seed: int = 99) -> dict[str, tuple[str, tuple[torch.Tensor, ...]]]:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(WIDTH, 2, generator=generator), torch.randn(2, WIDTH, generator=generator)
    return {f"{KEY_PREFIX}{name}.to_q.weight": ("lora", (up, down)) for name in ATTENTIONS}


MAKERS = {Technique.ATTENTION_SHARING: sharing_file, Technique.WEIGHT_OFFSETS: offsets_file}


def write_all(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, method in enumerate(METHODS.values()):
        save_file(MAKERS[method.technique](method, seed), folder / f"{method.weights}.safetensors")
    for seed, files in enumerate(VAE_FILES.values(), 50):
        decoder = TransparentDecoder(channels=(8, 8, 8, 16, 16), layers=1, attention_levels=1)
        save_file(randomised(decoder, seed), folder / f"{files.decoder}.safetensors")
        encoder = TransparentEncoder(widths=(4, 4, 4, 4))
        save_file(randomised(encoder, seed), folder / f"{files.encoder}.safetensors")
