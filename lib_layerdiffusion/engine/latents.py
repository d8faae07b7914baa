"""Latents that come from outside, in memory or as safetensors files: checked before anything is decoded from them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lib_layerdiffusion.errors import InputError, WeightsError
from lib_layerdiffusion.images.reading import MAX_PIXELS
from lib_layerdiffusion.transparency import LATENT_FACTOR
from lib_layerdiffusion.unet.injection import LATENT_CHANNELS
from lib_layerdiffusion.weights.reading import parse_tensors

HELP = "send base64 of a safetensors file with one tensor [4, height / 8, width / 8]"
LATENT_KEY = "latent"
"""Under which a latent lies in a file of ours, in the VAE's scale."""
_COMFY_KEY, _COMFY_MARK, _COMFY_OLD_SCALE = "latent_tensor", "latent_format_version_0", 0.18215
"""ComfyUI's SaveLatent: the tensor, a mark of files in the VAE's scale, and the scale of older ones."""
MAX_BYTES = 1 << 26
"""Of a latent's file: four times what the largest one takes in float32."""


def check_latent(latent: object) -> Tensor:
    """One latent, [4, h, w] or [1, 4, h, w] in any floating-point type -> float32 [1, 4, h, w].

    Raises:
        InputError: it is something else, of several pictures, too large, or not finite.
    """
    tensor = torch.as_tensor(latent) if isinstance(latent, np.ndarray) else latent
    if not isinstance(tensor, Tensor):
        raise InputError(f"A latent must be a tensor, not a {type(latent).__name__}.")
    whole = tensor[None] if tensor.ndim == 3 else tensor
    if whole.ndim != 4 or whole.shape[:2] != (1, LATENT_CHANNELS) or min(whole.shape) < 1:
        shape = " x ".join(map(str, tensor.shape))
        raise InputError(f"The latent is of shape {shape}: it must be 1 x 4 x height / 8 x width / 8, of one picture.")
    if whole.shape[2] * whole.shape[3] * LATENT_FACTOR**2 > MAX_PIXELS:
        raise InputError(f"The latent is that of more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller.")
    if not whole.is_floating_point():
        kind = str(whole.dtype).removeprefix("torch.")
        raise InputError(f"A latent must hold floating-point numbers, not {kind}.")
    whole = whole.float()
    if not bool(torch.isfinite(whole).all()):
        raise InputError("The latent has values that are no numbers: make the picture anew.")
    return whole


def stored_latent(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The latent in a file of tensors, in the VAE's scale, None where there is none: ours, or ComfyUI's (.latent)."""
    if LATENT_KEY in tensors:
        return tensors[LATENT_KEY]
    found = tensors.get(_COMFY_KEY)
    return found if found is None or _COMFY_MARK in tensors else found / _COMFY_OLD_SCALE


def read_latent(text: str) -> Tensor:
    """Base64 of a safetensors file with one tensor, as `check_latent` takes it -> float32 [1, 4, h, w].

    Raises:
        InputError: it is something else, too large, or not finite.
    """
    if len(text) > 2 * MAX_BYTES:
        raise InputError(f"The latent's file has more than {MAX_BYTES >> 20} MiB: {HELP}.")
    payload = text.partition("base64,")[2] or text
    try:
        tensors = parse_tensors(base64.b64decode("".join(payload.split()), validate=True))
    except (binascii.Error, ValueError, WeightsError) as error:
        raise InputError(f"The latent cannot be read: {HELP}.") from error
    latent = stored_latent(tensors)
    if latent is None and len(tensors) == 1:
        latent = next(iter(tensors.values()))
    if latent is None:
        raise InputError(f"The latent's file has {len(tensors)} tensors: {HELP}.")
    return check_latent(latent)


def write_latent(latent: Tensor) -> str:
    """The inverse of `read_latent`."""
    return base64.b64encode(safetensors.torch.save({"latent": latent.contiguous()})).decode("ascii")
