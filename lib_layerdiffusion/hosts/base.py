"""The few verbs that a host offers to the library.

An adapter implements `Host` for one program (Forge, diffusers). What flows through it is plain torch, so that the
golden cases hold on every host alike.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.unet.injection import Injection


class Handle(Protocol):
    """An injected change; releasing it twice is harmless."""

    def release(self) -> None:
        """Undo the change and leave the model bit-identical to what it was before."""
        ...


class Host(Protocol):
    """A program that samples with a latent diffusion model."""

    def family(self) -> Family:
        """The family of the loaded model, read from its architecture.

        Raises:
            ModelError: the model is of a family that no method is made for; the message names it.
        """
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """VAE-encode [B, 3, H, W] in [0, 1] to [B, 4, H/8, W/8] in the scale in which the UNet takes latents."""
        ...

    def inject(self, injection: Injection) -> Handle:
        """Put `injection` into the UNet until the handle is released.

        Raises:
            LayerDiffusionError: it does not fit; the UNet is untouched then.
        """
        ...
