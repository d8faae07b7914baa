"""Pipelines from a single-file checkpoint (offline), from a diffusers folder, or from a hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_layerdiffusion.errors import ModelError, is_out_of_memory
from lib_layerdiffusion.hosts.diffusers import ldm_checkpoint
from lib_layerdiffusion.hosts.diffusers.layouts import LAYOUTS, Layout
from lib_layerdiffusion.hosts.diffusers.tokenizer import clip_tokenizer
from lib_layerdiffusion.weights.reading import UNREADABLE

# Renamed in diffusers 0.42, which warns about the old name.
_DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_pipeline(source: str | Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load what a user calls a checkpoint.

    source: a `.safetensors` file, a folder in diffusers layout, or "owner/name" on a hub. Files and folders are read
    without any network.

    Raises:
        ModelError: there is no such thing, it cannot be read, or it is of an unsupported family.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return load_single_file(path, dtype)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(f'The folder "{path}" is no diffusers model: it has no model_index.json.')
        return _from_pretrained(str(path), dtype, local=True)
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        return _from_pretrained(source, dtype, local=False)
    raise ModelError(f'There is no checkpoint "{source}": give a .safetensors file, a diffusers folder or a hub id.')


def _from_pretrained(source: str, dtype: torch.dtype, *, local: bool) -> DiffusionPipeline:
    try:
        with _quietly() if local else nullcontext():
            pipeline = DiffusionPipeline.from_pretrained(source, local_files_only=local, **{_DTYPE: dtype})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        if not local:
            remedy = "check its name and the connection to the hub, or give a file or a folder"
            raise ModelError(f'"{source}" cannot be loaded: {remedy}.') from error
        reason = str(error).split("\n", 1)[0][:200]
        raise ModelError(f'"{source}" cannot be loaded from the folder: {reason}') from error
    if not (hasattr(pipeline, "unet") and hasattr(pipeline, "vae")):
        raise ModelError(
            f'"{source}" is a {type(pipeline).__name__}: choose a Stable Diffusion 1.5 or XL model instead.'
        )
    return pipeline


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars for parts that are on the disk already; bars that a program has switched off stay off."""
    shown = [item for item in (diffusers.utils.logging, transformers.utils.logging) if item.is_progress_bar_enabled()]
    for item in shown:
        item.disable_progress_bar()
    try:
        yield
    finally:
        for item in shown:
            item.enable_progress_bar()


def load_single_file(
    path: Path, dtype: torch.dtype = torch.float32, layout: Layout | None = None, tokenizer: Path | None = None
) -> DiffusionPipeline:
    """Load an ldm checkpoint without any network.

    layout: what is inside, read from the file if not given. tokenizer: folder with CLIP's vocab.json and merges.txt.

    Raises:
        ModelError: the file is no checkpoint, is damaged, lacks weights, or CLIP's vocabulary is not installed.
    """
    state = _read(path)
    if layout is None:
        layout = LAYOUTS[ldm_checkpoint.family_of({key: tuple(tensor.shape) for key, tensor in state.items()})]
    levels = len(layout.vae["block_out_channels"])
    states = ldm_checkpoint.text_states(state, layout.family)
    classes = (CLIPTextModel, CLIPTextModelWithProjection)
    encoders = [
        _filled(kind, CLIPTextConfig(**config), weights, dtype, path)
        for kind, config, weights in zip(classes, layout.text, states, strict=False)
    ]
    tokenizers = [clip_tokenizer(pad, tokenizer) for pad in layout.pads]
    unet = _filled(UNet2DConditionModel, layout.unet, ldm_checkpoint.unet_state(state, layout.unet), dtype, path)
    vae = _filled(AutoencoderKL, layout.vae, ldm_checkpoint.vae_state(state, levels), dtype, path)
    scheduler = EulerDiscreteScheduler.from_config(_scheduler_config(layout, state))
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
    parts |= {"text_encoder": encoders[0], "tokenizer": tokenizers[0]}
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if len(encoders) > 1:
        return StableDiffusionXLPipeline(**parts, text_encoder_2=encoders[1], tokenizer_2=tokenizers[1])
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False
    )


def _scheduler_config(layout: Layout, state: Mapping[str, Tensor]) -> dict[str, Any]:
    # Checkpoints that predict velocity or were trained to zero terminal SNR carry an empty tensor of that name.
    config = dict(layout.scheduler)
    if "v_pred" in state:
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in state:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f'"{path.name}" is not a .safetensors file: other formats can run code and are not read.')
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f'"{path.name}" is damaged or no safetensors file: get it again.') from error


def _filled(kind: Any, config: Any, state: dict[str, Tensor], dtype: torch.dtype, path: Path) -> nn.Module:
    """A model of class `kind` that takes its weights from `state` without ever being initialised."""
    with torch.device("meta"):
        model = kind.from_config(config) if isinstance(config, Mapping) else kind(config)
    expected = model.state_dict()
    if not any(key.startswith("text_model.") for key in expected):
        state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    wrong = [key for key, tensor in expected.items() if key not in state or state[key].shape != tensor.shape]
    if wrong:
        raise ModelError(
            f'"{path.name}" lacks {len(wrong)} of the {len(expected)} weights of its {kind.__name__} '
            f"(such as {wrong[0]}): it is incomplete or of another family."
        )
    # Copies: the file's memory map must not outlive this call, or replacing the file would change the model.
    weights = {key: state[key].to(dtype, copy=True).contiguous() for key in expected}
    model.load_state_dict(weights, assign=True)
    _fill_buffers(model)
    return model.requires_grad_(requires_grad=False).eval()


def _fill_buffers(model: nn.Module) -> None:
    """Give buffers that no checkpoint carries (CLIP's position ids) their values."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                setattr(module, name, torch.arange(buffer.shape[-1]).expand(buffer.shape).clone())
