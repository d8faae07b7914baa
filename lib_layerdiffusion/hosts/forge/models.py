"""Networks that runs share: layer files and both families' transparency VAEs, moved by the host's memory management."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from modules import paths, shared
from torch import Tensor, nn

from lib_layerdiffusion.hosts.forge import backends, options
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend
from lib_layerdiffusion.hosts.forge.earlier import EarlierResults
from lib_layerdiffusion.hosts.forge.folders import layer_folders
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family, LayerMethod
from lib_layerdiffusion.networks import AttentionSharing, TransparentDecoder
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.places import compiled_folder
from lib_layerdiffusion.transparency import LatentTransparency
from lib_layerdiffusion.unet.injection import LayerWeights
from lib_layerdiffusion.weights import WeightStore


def model_folders() -> list[Path]:
    """Where layer files are looked for; into the first they are put: as command line or settings page say."""
    chosen = getattr(shared.cmd_opts, "layerdiffusion_models_dir", None) or options.models_dir()
    return layer_folders(Path(paths.models_path), vars(shared.cmd_opts), chosen)


class ForgeModels:
    """The weight store of this process, the host's patchers of what was read from it, and the results so far."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backends.find() if backend is None else backend
        self.earlier = EarlierResults()
        self._store: WeightStore | None = None
        self._patchers: dict[str, Any] = {}

    @property
    def store(self) -> WeightStore:
        """Made on first use: the command line is parsed by then."""
        if self._store is None:
            self._store = WeightStore(model_folders(), endpoint=options.mirror())
        return self._store

    def identity(self, method: LayerMethod) -> str:
        """Says which content a method's layer file has, so that the host merges a replaced file anew."""
        path = self._fetched(method.weights)
        return f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}"

    def layer_weights(self, method: LayerMethod) -> LayerWeights:
        """The method's layer file.

        Raises:
            WeightsError: it is missing and cannot be fetched, damaged, or another method's.
        """
        self._fetched(method.weights)
        return self.store.layer(method)

    def load_transparency(self, family: Family, *, encoder: bool, exact: bool = False) -> None:
        """Read the family's decoder and, where wanted, its encoder, so that nothing is missing after sampling.

        exact: as in `decode`.

        Raises:
            WeightsError: a file is missing and cannot be fetched, or damaged.
        """
        self._fetched(VAE_FILES[family].decoder)
        self.store.decoder(family, exact=exact)
        if encoder:
            self._fetched(VAE_FILES[family].encoder)
            self.store.encoder(family)

    def decode(self, family: Family, pixels: Tensor, latent: Tensor, passes: int, *, exact: bool = False) -> Tensor:
        """`LatentTransparency.decode` on the host's device, within half of the memory that is free there.

        exact: in the precision that the published extension takes.
        """
        decoder = self.store.decoder(family, exact=exact)
        dtype = faster_precision(self.backend.torch_device(), self._vae_dtype(), exact=exact)
        patcher = self._patcher(f"{VAE_FILES[family].decoder}{' exact' if exact else ''}", decoder, dtype)
        one_view = decoder.activation_bytes_per_pixel * pixels.shape[-2] * pixels.shape[-1]
        self.backend.load([patcher], memory=one_view)
        limit = options.decode_memory(self.backend.free_memory(patcher.load_device))
        pair = LatentTransparency(decoder=decoder, compiled_in=compiled_folder() if options.compiled() else None)
        try:
            return pair.decode(pixels, latent, passes, memory_limit=limit, progress=_show_passes).cpu()
        finally:
            shared.state.textinfo = None

    def encode_offset(self, family: Family, picture: Picture) -> Tensor:
        """`LatentTransparency.encode_offset` on the host's device."""
        encoder = self.store.encoder(family)
        self.backend.load([self._patcher(VAE_FILES[family].encoder, encoder, self._vae_dtype())])
        return LatentTransparency(encoder=encoder).encode_offset(picture)

    def sharing_patcher(self, method: LayerMethod, sharing: AttentionSharing, unet: Any) -> Any:
        """The units under the host's memory management, in the dtype in which the UNet computes.

        Those of other methods go: a layer file takes up to a gigabyte, and one run uses one.
        """
        for name in {other.weights for other in METHODS.values()} - {method.weights}:
            dropped = self._patchers.pop(name, None)
            if dropped is not None:
                self.backend.unlist(dropped)
        return self._patcher(method.weights, sharing, self.backend.computation_dtype(unet))

    def signals(self, patcher: Any, pixels: Tensor) -> dict[int, Tensor]:
        """Condition signals of a picture [1, 3, H, W] in [0, 1]."""
        self.backend.load([patcher])
        with torch.inference_mode():
            return patcher.model.signals(pixels.to(patcher.load_device))

    def _fetched(self, name: str) -> Path:
        def progress(done: int, total: int | None) -> None:
            whole = f" of {total >> 20}" if total else ""
            shared.state.textinfo = f"LayerDiffusion: fetching {name}, {done >> 20}{whole} MiB"

        return self.store.path(name, progress)

    def _patcher(self, name: str, network: nn.Module, dtype: torch.dtype) -> Any:
        kept = self._patchers.get(name)
        decodes = isinstance(network, TransparentDecoder)
        now = network.dtype if decodes else next(network.parameters()).dtype
        if kept is None or kept.model is not network or now != dtype:
            network.with_precision(dtype) if decodes else network.to(dtype)
            kept = self._patchers[name] = self.backend.patcher(network)
        return kept

    def _vae_dtype(self) -> torch.dtype:
        """Half precision where the host would take it for this device, as the published decoders were used."""
        return torch.float16 if self.backend.prefers_half() else torch.float32


def _show_passes(done: int, total: int) -> None:
    shared.state.textinfo = f"LayerDiffusion: decoding alpha, pass {done} of {total}"
