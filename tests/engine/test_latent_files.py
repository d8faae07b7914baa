"""Latents that other programs have saved."""

from __future__ import annotations

import base64

import pytest
import torch
from safetensors.torch import save

from lib_layerdiffusion.engine.latents import read_latent, stored_latent

LATENT = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(1))
COMFY = {"latent_tensor": LATENT, "latent_format_version_0": torch.tensor([])}
OLD_COMFY = {"latent_tensor": LATENT * 0.18215}


@pytest.mark.parametrize("tensors", [{"latent": LATENT}, COMFY, OLD_COMFY])
def test_ours_and_comfyuis_are_read_in_the_vaes_scale(tensors):
    torch.testing.assert_close(stored_latent(tensors), LATENT)
    sent = base64.b64encode(save({key: value.contiguous() for key, value in tensors.items()})).decode()
    torch.testing.assert_close(read_latent(sent), LATENT)


def test_others_are_not():
    assert stored_latent({"samples": LATENT}) is None
