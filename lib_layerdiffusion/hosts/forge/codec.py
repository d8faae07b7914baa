"""RGBA pictures to pixels and latent and back, with the checkpoint that is loaded."""

from __future__ import annotations

import numpy as np
import torch
from modules import shared
from torch import Tensor

from lib_layerdiffusion.hosts.forge import vae
from lib_layerdiffusion.hosts.forge.family import family_of
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.images.arithmetic import flatten_on_grey, to_uint8
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.transparency import rgba_arrays


def loaded_family() -> Family:
    """Family of the loaded checkpoint.

    Raises:
        ModelError: none is loaded, or none that methods are made for.
    """
    return family_of(shared.sd_model)


@torch.no_grad()
def encode(rgba: Picture, models: ForgeModels) -> tuple[Picture, Tensor]:
    """Hide a picture's alpha in its latent: `mean + std * offset` of the VAE's own distribution.

    rgba: uint8 [H, W, 4], H and W multiples of 8. Returns uint8 [H, W, 3] as the VAE decodes the latent, and the
    latent, float32 [1, 4, H/8, W/8] on the CPU, in the scale in which the VAE takes it.

    Raises:
        ModelError: no checkpoint is loaded that methods are made for.
        InputError: the size is no multiple of 8.
        WeightsError: the encoder is missing.
        HostError: the VAE encodes in pieces, so the alpha cannot get in.
    """
    family = loaded_family()
    models.load_transparency(family, encoder=True)
    offset = models.encode_offset(family, rgba)
    pixels = torch.from_numpy(flatten_on_grey(rgba).astype(np.float32) / 255.0).movedim(-1, 0)[None]
    latent = vae.encode(shared.sd_model.forge_objects.vae, pixels, vae.offset_by(offset))
    return to_uint8(_vae_decode(latent)[0].movedim(0, -1).numpy()), latent.float().cpu()


@torch.no_grad()
def decode(latent: Tensor, picture: Picture | None, family: Family | None, passes: int, models: ForgeModels) -> Picture:
    """RGBA of a picture and its latent.

    latent: [1, 4, h, w] in the scale in which the VAE takes it. picture: uint8 [H, W, 4] whose alpha is not looked at;
    None lets the loaded checkpoint's VAE decode the latent. family: None means that of the loaded checkpoint. Returns
    uint8 [H, W, 4].

    Raises:
        ModelError: a loaded checkpoint is needed and there is none.
        InputError: latent and picture do not belong together.
        WeightsError: the decoder is missing.
    """
    family = loaded_family() if family is None or picture is None else family
    models.load_transparency(family, encoder=False)
    if picture is None:
        pixels = _vae_decode(latent)
    else:
        pixels = torch.from_numpy(picture[..., :3].astype(np.float32) / 255.0).movedim(-1, 0)[None]
    return rgba_arrays(models.decode(family, pixels, latent, passes))[0]


def _vae_decode(latent: Tensor) -> Tensor:
    """[1, 4, h, w] -> float32 [1, 3, H, W] in [0, 1] on the CPU."""
    return shared.sd_model.forge_objects.vae.decode(latent).movedim(-1, 1).float().cpu()
