"""reForge and Forge classic: `ldm_patched.*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ldm_patched.ldm.modules import attention
from ldm_patched.modules import conds, model_management
from ldm_patched.modules.model_patcher import ModelPatcher
from modules_forge import forge_sampler
from torch import Tensor

from lib_layerdiffusion.hosts.forge.backends.common import CommonBackend
from lib_layerdiffusion.hosts.forge.backends.offsets import Tuples, adapters_of

_ADAPTERS = "ldm_patched.modules.weight_adapter"


class HostBackend(CommonBackend):
    """See `protocol.Backend`."""

    def __init__(self) -> None:
        super().__init__(model_management, ModelPatcher, adapters_of(_ADAPTERS) or Tuples(), _backup)

    def computation_dtype(self, unet: Any) -> torch.dtype:
        """See `protocol.Backend`."""
        return unet.model.manual_cast_dtype or unet.model.get_dtype()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `protocol.Backend`."""
        return attention.optimized_attention(q, k, v, heads)

    def condition(self, value: Tensor) -> Any:
        """See `protocol.Backend`."""
        return conds.CONDRegular(value)

    def weighted_conditions(self, text: Any, composition: Any) -> list[dict[str, Any]]:
        """See `protocol.Backend`."""
        return forge_sampler.cond_from_a1111_to_patched_ldm_weighted(text, composition)

    def percent_to_sigma(self, unet: Any, share: float) -> float:
        """See `protocol.Backend`."""
        return float(unet.model.model_sampling.percent_to_sigma(share))

    def latent_in(self, sd_model: Any, latent: Tensor) -> Tensor:
        """See `protocol.Backend`."""
        return sd_model.forge_objects.unet.model.process_latent_in(latent)

    def latent_out(self, sd_model: Any, latent: Tensor) -> Tensor:
        """See `protocol.Backend`."""
        return sd_model.forge_objects.unet.model.process_latent_out(latent)


def _backup(unet: Any) -> Mapping[str, Any]:
    """Whichever clone of the patcher is loaded keeps it; newer hosts keep how they put it back beside the weight."""
    loaded = [entry.model for entry in model_management.current_loaded_models]
    clones = [patcher for patcher in loaded if patcher is not None and patcher.model is unet.model]
    kept = {name: value for patcher in (unet, *clones) for name, value in patcher.backup.items()}
    return {name: getattr(value, "weight", value) for name, value in kept.items()}
