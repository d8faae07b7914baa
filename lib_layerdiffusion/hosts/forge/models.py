"""Networks that runs share: layer files and both families' transparency VAEs, moved by the host's memory management."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from backend import memory_management
from backend.patcher.base import ModelPatcher
from torch import Tensor, nn

from lib_layerdiffusion.hosts.forge.files import LayerFiles
from lib_layerdiffusion.injection import LayerWeights, read_layer_weights
from lib_layerdiffusion.methods import VAE_FILES, Family, LayerMethod
from lib_layerdiffusion.networks import AttentionSharing, TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.pictures import Picture
from lib_layerdiffusion.transparency import LatentTransparency

Build = Callable[[Mapping[str, Tensor]], nn.Module]


class ForgeModels:
    """Keeps the last layer file, and encoder and decoder of every family that was used."""

    def __init__(self) -> None:
        self.files = LayerFiles()
        self._weights: tuple[Hashable, LayerWeights] | None = None
        self._networks: dict[str, tuple[Hashable, ModelPatcher]] = {}
        self._sharing: tuple[AttentionSharing, ModelPatcher] | None = None

    def identity(self, method: LayerMethod) -> str:
        """Says which content a method's layer file has, so that a replaced file is merged anew."""
        return f"layerdiffusion {self.files.stamp(method.weights)}"

    def layer_weights(self, method: LayerMethod) -> LayerWeights:
        """The method's layer file, fetched where it is missing.

        Raises:
            WeightsError: it cannot be had, is damaged, or is another method's.
        """
        self.files.fetch(method.weights)
        stamp = self.files.stamp(method.weights)
        if self._weights is None or self._weights[0] != stamp:
            self._weights = self._sharing = None  # two layer files need not be in memory at once
            self._weights = (stamp, read_layer_weights(method, self.files.read(method.weights)))
        return self._weights[1]

    def load_transparency(self, family: Family, *, encoder: bool) -> None:
        """Read the family's decoder and, where wanted, its encoder, so that nothing is missing after sampling.

        Raises:
            WeightsError: a file cannot be had, or is damaged.
        """
        self._network(VAE_FILES[family].decoder, TransparentDecoder.from_state_dict)
        if encoder:
            self._network(VAE_FILES[family].encoder, TransparentEncoder.from_state_dict)

    def decode(self, family: Family, pixels: Tensor, latent: Tensor, passes: int) -> Tensor:
        """`LatentTransparency.decode` on the host's device, within the memory that is free there."""
        patcher = self._network(VAE_FILES[family].decoder, TransparentDecoder.from_state_dict)
        memory_management.load_model_gpu(patcher)
        limit = int(memory_management.get_free_memory(patcher.load_device) // 2)
        return LatentTransparency(decoder=patcher.model).decode(pixels, latent, passes, memory_limit=limit).cpu()

    def encode_offset(self, family: Family, picture: Picture) -> Tensor:
        """`LatentTransparency.encode_offset` on the host's device."""
        patcher = self._network(VAE_FILES[family].encoder, TransparentEncoder.from_state_dict)
        memory_management.load_model_gpu(patcher)
        return LatentTransparency(encoder=patcher.model).encode_offset(picture)

    def sharing_patcher(self, sharing: AttentionSharing, unet: Any) -> ModelPatcher:
        """Attention-sharing units under the host's memory management, in the dtype in which the UNet computes."""
        dtype = unet.model.computation_dtype
        if self._sharing is None or self._sharing[0] is not sharing or next(sharing.parameters()).dtype != dtype:
            sharing.to(dtype)
            self._sharing = (sharing, ModelPatcher(sharing, unet.load_device, unet.offload_device))
        return self._sharing[1]

    def signals(self, patcher: ModelPatcher, pixels: Tensor) -> dict[int, Tensor]:
        """Condition signals of a picture [1, 3, H, W] in [0, 1]."""
        memory_management.load_model_gpu(patcher)
        with torch.inference_mode():
            return patcher.model.signals(pixels.to(patcher.load_device))

    def _network(self, name: str, build: Build) -> ModelPatcher:
        self.files.fetch(name)
        stamp = self.files.stamp(name)
        kept = self._networks.get(name)
        if kept is None or kept[0] != stamp:
            device = memory_management.get_torch_device()
            dtype = torch.float16 if memory_management.should_use_fp16(device) else torch.float32
            network = build(self.files.read(name)).to(dtype=dtype, memory_format=torch.channels_last)
            kept = (stamp, ModelPatcher(network, device, memory_management.unet_offload_device()))
            self._networks[name] = kept
        return kept[1]
