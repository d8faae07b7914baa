"""Latent transparency for latent diffusion models: native RGBA pictures, layer by layer.

A reimplementation of "Transparent Image Layer Diffusion using Latent Transparency" (Zhang & Agrawala, 2024).
"""

from typing import TYPE_CHECKING, Any

from lib_layerdiffusion.garbage import nothing_collected
from lib_layerdiffusion.version import __version__

if TYPE_CHECKING:
    from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion as LayerDiffusion

__all__ = ["LayerDiffusion", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: it needs diffusers, which the core and Forge do without.
    if name == "LayerDiffusion":
        with nothing_collected():
            from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion

        return LayerDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
