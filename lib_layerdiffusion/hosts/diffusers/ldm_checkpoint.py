"""State dicts of single-file (ldm) checkpoints, renamed for diffusers and transformers models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lib_layerdiffusion.errors import ModelError
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.unet.ldm_keys import ldm_to_diffusers

UNET = "model.diffusion_model."
VAE = "first_stage_model."
_CLIP_L = {Family.SD15: "cond_stage_model.transformer.", Family.SDXL: "conditioner.embedders.0.transformer."}
_OPEN_CLIP = "conditioner.embedders.1.model."
_FOREIGN = {
    "double_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    "lora_unet_": "a LoRA",
    "hookers.": "a layer file",
}

_VAE_NAMES = (
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
)
_OPEN_CLIP_NAMES = (
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"text_model.encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"text_model.encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"text_model.encoder.layers.\1.mlp.fc2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"text_model.encoder.layers.\1.self_attn.out_proj."),
)
_IN_PROJ = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def family_of(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """The family of a checkpoint, read from its keys and shapes.

    Raises:
        ModelError: it is no checkpoint, or of a family that no method is made for; the message names it.
    """
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is None:
        kind = next((kind for mark, kind in _FOREIGN.items() if any(mark in key for key in shapes)), "")
        raise ModelError(
            f"This file is {kind or 'no Stable Diffusion checkpoint'}: choose a Stable Diffusion 1.5 or XL checkpoint."
        )
    width = next((s[1] for k, s in shapes.items() if k.startswith(UNET) and k.endswith("attn2.to_k.weight")), 0)
    families = {768: Family.SD15, 2048: Family.SDXL}
    if width not in families:
        other = {1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}.get(width, "of an unknown family")
        raise ModelError(f"This checkpoint is {other}: choose a Stable Diffusion 1.5 or XL checkpoint.")
    if first[1] != 4:
        raise ModelError(
            f"This checkpoint is made for inpainting or editing ({first[1]} input channels instead of 4): "
            "choose a plain Stable Diffusion 1.5 or XL checkpoint."
        )
    return families[width]


def unet_state(source: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The UNet's weights under diffusers' names; keys that the configuration does not know keep theirs."""
    names = ldm_to_diffusers(config)
    stripped = ((key.removeprefix(UNET), tensor) for key, tensor in source.items() if key.startswith(UNET))
    return {names.get(key, key): tensor for key, tensor in stripped}


def vae_state(source: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The VAE's weights under diffusers' names, its 1x1 attention convolutions as matrices."""
    state: dict[str, Tensor] = {}
    for key, tensor in source.items():
        if not key.startswith(VAE) or ".loss." in key or key.startswith(f"{VAE}model_ema"):
            continue
        name = _renamed("." + key.removeprefix(VAE), _VAE_NAMES)[1:]
        up = re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.(.*)", name)
        if up:
            part = "resnets" if up[2] == "block" else "upsamplers.0"
            name = f"decoder.up_blocks.{levels - 1 - int(up[1])}.{part}.{up[3]}"
        is_matrix = ".mid_block.attentions.0.to_" in name and tensor.ndim == 4
        state[name] = tensor[:, :, 0, 0] if is_matrix else tensor
    return state


def text_states(source: Mapping[str, Tensor], family: Family) -> list[dict[str, Tensor]]:
    """The text encoders' weights under transformers' names: CLIP ViT-L, and OpenCLIP ViT-bigG for SDXL."""
    prefix = _CLIP_L[family]
    first = {key.removeprefix(prefix): tensor for key, tensor in source.items() if key.startswith(prefix)}
    first = {key: tensor for key, tensor in first.items() if not key.endswith("position_ids")}
    if family is Family.SD15:
        return [first]
    return [first, dict(_open_clip_state(source))]


def _open_clip_state(source: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in source.items():
        name = key.removeprefix(_OPEN_CLIP)
        if name in {key, "logit_scale"}:
            continue
        joined = _IN_PROJ.fullmatch(name)
        if joined:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield f"text_model.encoder.layers.{joined[1]}.self_attn.{part}_proj.{joined[2]}", rows
        elif name in ("text_projection", "text_projection.weight"):
            # OpenCLIP multiplies from the left with its parameter, transformers has a linear layer.
            yield "text_projection.weight", tensor.t() if name == "text_projection" else tensor
        else:
            yield _renamed(name, _OPEN_CLIP_NAMES), tensor
