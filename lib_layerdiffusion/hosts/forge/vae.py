"""The VAE's encoder, alike on every host: they differ in whether they draw, take the mean, or let anybody choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge.control import Replacement

Place = Callable[[Tensor, Tensor], Tensor]
"""(mean, std) of the VAE's own distribution, each [B, 4, h, w], -> the latent to take."""
_LOG_VARIANCE = (-30.0, 20.0)
_IN_PIECES = ("encode_tiled", "encode_tiled_")


def drawn(mean: Tensor, std: Tensor) -> Tensor:
    """A sample, drawn as Forge does: from the CPU's global generator, which hosts seed for the picture."""
    return mean + std * torch.randn(mean.shape).to(mean.device)


def offset_by(offset: Tensor) -> Place:
    """Place the latent at `mean + std * offset`. offset: [1, 4, h, w].

    Raises:
        HostError: when called, with a part of the picture only.
    """

    def place(mean: Tensor, std: Tensor) -> Tensor:
        if offset.shape[-2:] != mean.shape[-2:]:
            raise in_pieces()
        return mean + std * offset.to(mean)

    return place


def in_pieces() -> HostError:
    """What is wrong where a VAE encodes in tiles: each needs its own part of the alpha, or draws for itself."""
    return HostError(
        "The VAE encodes the picture in pieces, which no layer can be made from: switch tiled VAE encoding off, or "
        "make the picture smaller where the host chose it because memory ran out."
    )


@contextmanager
def encoding(vae: Any, place: Place) -> Iterator[None]:
    """For the time of the block, let `vae` (the host's, of the loaded model) encode to what `place` says.

    Only functions of these two instances are replaced, and put back in any case.

    Raises:
        HostError: within the block, where the host encodes in tiles.
    """
    network = vae.first_stage_model

    def encode(_own: Callable[..., Any], pixels: Tensor, *_more: Any, **_named: Any) -> Tensor:
        moments = network.encoder(pixels)
        quantise = getattr(network, "quant_conv", None)
        mean, log_variance = torch.chunk(moments if quantise is None else quantise(moments), 2, dim=1)
        return place(mean, torch.exp(0.5 * torch.clamp(log_variance, *_LOG_VARIANCE)))

    def refuse(*_: Any, **__: Any) -> Any:
        raise in_pieces()

    refused = [name for name in _IN_PIECES if hasattr(vae, name)]
    with ExitStack() as undo:
        for owner, name, function in [(network, "encode", encode), *((vae, name, refuse) for name in refused)]:
            undo.callback(Replacement(owner, name, function).restore)
        yield


def encode(vae: Any, pixels: Tensor, place: Place = drawn) -> Tensor:
    """VAE-encode [B, 3, H, W] in [0, 1] to the latent that `place` says, in the VAE's scale.

    Raises:
        HostError: the host encodes in tiles.
    """
    with encoding(vae, place):
        return vae.encode(pixels.movedim(1, -1))
