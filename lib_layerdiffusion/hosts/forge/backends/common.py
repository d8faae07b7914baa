"""What the backends of Forge's kin have in common, whatever their modules are called."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib_layerdiffusion.hosts.forge.backends.offsets import Backup, OffsetWay, adds_while_computing
from lib_layerdiffusion.hosts.forge.quantised import quantisation
from lib_layerdiffusion.unet.injection import WeightOffsets


class CommonBackend:
    """The capabilities that only need to know modules. See `protocol.Backend`.

    memory: the host's module of memory management. patcher_class: its patchers. offsets: its way of merging. backup:
    gives the parameters of a patcher's network that something is merged into, as they were before.
    """

    def __init__(self, memory: Any, patcher_class: Any, offsets: OffsetWay, backup: Backup) -> None:
        self._memory = memory
        self._patcher_class = patcher_class
        self._offsets = offsets
        self._backup = backup
        self._preserves = "hard_memory_preservation" in inspect.signature(memory.load_models_gpu).parameters

    def torch_device(self) -> torch.device:
        """See `protocol.Backend`."""
        return self._memory.get_torch_device()

    def prefers_half(self) -> bool:
        """See `protocol.Backend`."""
        return bool(self._memory.should_use_fp16(self.torch_device()))

    def free_memory(self, device: torch.device) -> int:
        """See `protocol.Backend`."""
        return int(self._memory.get_free_memory(device))

    def load(self, patchers: Sequence[Any], memory: float = 0, preserved: float = 0) -> None:
        """See `protocol.Backend`."""
        if self._preserves:
            self._memory.load_models_gpu(list(patchers), memory_required=memory, hard_memory_preservation=preserved)
        else:
            self._memory.load_models_gpu(list(patchers), memory_required=memory + preserved)

    def unlist(self, patcher: Any) -> None:
        """See `protocol.Backend`."""
        loaded = self._memory.current_loaded_models
        loaded[:] = [entry for entry in loaded if entry.model is not patcher]

    def patcher(self, network: nn.Module) -> Any:
        """See `protocol.Backend`."""
        return self._patcher_class(network, self.torch_device(), self._memory.unet_offload_device())

    def add_offsets(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """See `protocol.Backend`."""
        return self._offsets.add(unet, offsets, identity, strength)

    def unmerged(self, unet: Any, offsets: WeightOffsets) -> list[str]:
        """See `protocol.Backend`."""
        return self._offsets.unmerged(unet, offsets)

    def changes_quantised(self, unet: Any, parameter: Tensor) -> bool:
        """See `protocol.Backend`. bitsandbytes' weights are unpacked by CUDA alone in these hosts."""
        if "bitsandbytes" in quantisation(parameter):
            return self.torch_device().type == "cuda"
        return adds_while_computing(unet) or "fp8" in quantisation(parameter)

    def parameters(self, unet: Any) -> dict[str, Tensor]:
        """See `protocol.Backend`."""
        return {**dict(unet.model.named_parameters()), **self._backup(unet)}
