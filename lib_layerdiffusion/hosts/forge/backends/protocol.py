"""What LayerDiffusion needs of a host below its hooks, in named capabilities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lib_layerdiffusion.unet.injection import WeightOffsets


class Backend(Protocol):
    """Memory, patchers, weight offsets, attention, conditions and latent scale of one kin of hosts."""

    # Memory.
    def torch_device(self) -> torch.device:
        """Where networks compute."""
        ...

    def prefers_half(self) -> bool:
        """Whether the host would take half precision on that device."""
        ...

    def free_memory(self, device: torch.device) -> int:
        """Bytes that are free on `device`."""
        ...

    def load(self, patchers: Sequence[Any], memory: float = 0, preserved: float = 0) -> None:
        """Bring networks to their devices and keep `memory` bytes free for work and `preserved` for others."""
        ...

    def unlist(self, patcher: Any) -> None:
        """Take a patcher off the host's list of loaded ones, which may keep its network alive."""
        ...

    # Patchers.
    def patcher(self, network: nn.Module) -> Any:
        """Put a network of ours under the host's memory management."""
        ...

    def computation_dtype(self, unet: Any) -> torch.dtype:
        """The dtype in which the UNet of this patcher computes."""
        ...

    # Weight offsets.
    def add_offsets(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """Let the host merge offsets when it loads this patcher; returns the names of parameters that it found.

        identity: says which content this is; the host need not merge again while it and the strength stay.
        """
        ...

    def unmerged(self, unet: Any, offsets: WeightOffsets) -> list[str]:
        """Names of offsets that are not in the weights although the patcher has been loaded and has sampled."""
        ...

    def changes_quantised(self, unet: Any, parameter: Tensor) -> bool:
        """Whether `add_offsets` can change a quantised parameter of this patcher's network."""
        ...

    def parameters(self, unet: Any) -> dict[str, Tensor]:
        """The unpatched UNet's parameters by full name, also where something is merged in at the moment."""
        ...

    # Attention and conditions.
    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """The host's attention, [B, tokens, heads * width]."""
        ...

    def condition(self, value: Tensor) -> Any:
        """Wrap a tensor that is handed to the UNet row by row."""
        ...

    def weighted_conditions(self, text: Any, composition: Any) -> list[dict[str, Any]]:
        """The host's conditions of a step, a group for each part of AND-prompts."""
        ...

    # Scales.
    def percent_to_sigma(self, unet: Any, share: float) -> float:
        """The noise level at a share of the schedule, from 0 (its start) to 1."""
        ...

    def latent_in(self, sd_model: Any, latent: Tensor) -> Tensor:
        """From the VAE's scale to the sampler's."""
        ...

    def latent_out(self, sd_model: Any, latent: Tensor) -> Tensor:
        """From the sampler's scale to the VAE's."""
        ...
