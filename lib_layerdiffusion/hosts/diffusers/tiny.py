"""A complete family of random weights, small enough to be made on the spot: for tests, and to try the command with.

Its one UNet takes the files of both techniques, as small families do; every file has the published key grammar.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_layerdiffusion.hosts.diffusers.tokenizer import END, START, byte_characters
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family, LayerMethod, Technique
from lib_layerdiffusion.networks import AttentionSharing, TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.unet.injection import CONV_IN, KEY_PREFIX, LATENT_CHANNELS
from lib_layerdiffusion.unet.ldm_keys import attention_units, diffusers_to_ldm

TEXT_WIDTH = 32
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [16, 32, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
UNET_XL: dict[str, Any] = UNET | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2 * TEXT_WIDTH,
    "transformer_layers_per_block": [1, 1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
}
VAE: dict[str, Any] = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
DECODER_CHANNELS = (8, 8, 16, 16, 16, 16, 16)
ENCODER_CHANNELS = (8, 8, 8, 8)


def tiny_tokenizer() -> Any:
    """A CLIP tokenizer that spells every word in bytes."""
    characters = byte_characters()
    words = [*characters, *(f"{character}</w>" for character in characters), START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77, local_files_only=True, **special)


def text_config(tokenizer: Any) -> dict[str, Any]:
    """Configuration of a CLIP text encoder of the smallest size for a tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": TEXT_WIDTH,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def tiny_pipeline(*, xl: bool = False, seed: int = 0) -> Any:
    """A Stable Diffusion 1.5 or XL pipeline of random weights; same seed, same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        config = CLIPTextConfig(**text_config(tokenizer))
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(UNET_XL if xl else UNET),
            "vae": AutoencoderKL.from_config(VAE),
            "scheduler": EulerDiscreteScheduler(**SCHEDULER),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(config),
        }
        if xl:
            parts |= {"tokenizer_2": tokenizer, "text_encoder_2": CLIPTextModelWithProjection(config)}
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(requires_grad=False).eval()
    if xl:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def offsets_file(unet: nn.Module, conditions: int, generator: torch.Generator, rank: int = 2) -> dict[str, Tensor]:
    """A random SDXL-style layer file for a UNet: low-rank changes of attention, and a widened first convolution."""
    tensors: dict[str, Tensor] = {}
    for name, theirs in diffusers_to_ldm(unet.config).items():  # type: ignore[arg-type]
        shape = unet.get_parameter(name).shape
        if ".attn" in name and name.endswith(".weight"):
            root = f"{KEY_PREFIX}{theirs}::lora::"
            tensors[f"{root}0"] = 0.3 * torch.randn(shape[0], rank, generator=generator)
            tensors[f"{root}1"] = 0.3 * torch.randn(rank, shape[1:].numel(), generator=generator)
        elif name == "conv_in.weight":
            wide = (shape[0], LATENT_CHANNELS * (1 + conditions), *shape[2:])
            tensors[f"{KEY_PREFIX}{CONV_IN}::diff::0"] = 0.1 * torch.randn(wide, generator=generator)
    return tensors


def sharing_file(
    unet: nn.Module, frames: int, conditions: int, generator: torch.Generator, rank: int = 4
) -> dict[str, Tensor]:
    """A random SD1.5-style layer file for a UNet."""
    layers = [unet.get_submodule(name) for name in attention_units(unet.config)]  # type: ignore[arg-type]
    widths = [
        (layer.to_q.in_features, layer.to_k.in_features if index % 2 else None) for index, layer in enumerate(layers)
    ]
    sharing = AttentionSharing(
        widths,
        frames=frames,
        rank=rank,
        condition_channels=(4, 4, 8, 8) if conditions else None,
        condition_sizes=len(unet.config["block_out_channels"]),  # type: ignore[index]
    )
    return _random_state(sharing, generator)


def _random_state(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            state[key] = noise * value[0].numel() ** -0.5
        else:
            state[key] = (1.0 if key.endswith("weight") else 0.0) + 0.1 * noise
    return state


def layer_file(unet: nn.Module, method: LayerMethod, generator: torch.Generator) -> dict[str, Tensor]:
    """A random file for a method."""
    conditions = len(method.inputs)
    if method.technique is Technique.ATTENTION_SHARING:
        return sharing_file(unet, method.frame_count, conditions, generator)
    return offsets_file(unet, conditions, generator)


def layer_files(
    unet: nn.Module, families: tuple[Family, ...] = tuple(Family)
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Catalogue name and tensors of every file of some families, for one UNet."""
    for family in families:
        generator = torch.Generator().manual_seed(1)
        for method in METHODS.of_family(family):
            yield method.weights, layer_file(unet, method, generator)
        yield (
            VAE_FILES[family].decoder,
            _random_state(TransparentDecoder(channels=DECODER_CHANNELS, layers=1), generator),
        )
        yield VAE_FILES[family].encoder, _random_state(TransparentEncoder(widths=ENCODER_CHANNELS), generator)
