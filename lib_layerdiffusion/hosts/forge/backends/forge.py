"""Forge and Forge Neo: `backend.*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from backend import attention, memory_management
from backend.patcher.base import ModelPatcher
from backend.sampling import condition
from torch import Tensor

from lib_layerdiffusion.hosts.forge.backends.common import CommonBackend
from lib_layerdiffusion.hosts.forge.backends.offsets import NamedTuples, adapters_of

_ADAPTERS = "modules_forge.packages.comfy.weight_adapter"


class HostBackend(CommonBackend):
    """See `protocol.Backend`."""

    def __init__(self) -> None:
        super().__init__(memory_management, ModelPatcher, adapters_of(_ADAPTERS) or NamedTuples(), _backup)

    def computation_dtype(self, unet: Any) -> torch.dtype:
        """See `protocol.Backend`."""
        return unet.model.computation_dtype

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `protocol.Backend`."""
        return attention.attention_function(q, k, v, heads)

    def condition(self, value: Tensor) -> Any:
        """See `protocol.Backend`."""
        return condition.Condition(value)

    def weighted_conditions(self, text: Any, composition: Any) -> list[dict[str, Any]]:
        """See `protocol.Backend`."""
        return condition.compile_weighted_conditions(text, composition)

    def percent_to_sigma(self, unet: Any, share: float) -> float:
        """See `protocol.Backend`."""
        return float(unet.model.predictor.percent_to_sigma(share))

    def latent_in(self, sd_model: Any, latent: Tensor) -> Tensor:
        """See `protocol.Backend`."""
        return sd_model.forge_objects.vae.first_stage_model.process_in(latent)

    def latent_out(self, sd_model: Any, latent: Tensor) -> Tensor:
        """See `protocol.Backend`."""
        return sd_model.forge_objects.vae.first_stage_model.process_out(latent)


def _backup(unet: Any) -> Mapping[str, Any]:
    merger = getattr(unet.model, "lora_loader", None)
    if merger is not None:
        return merger.backup
    return {name: kept.weight for name, kept in unet.backup.items()}
