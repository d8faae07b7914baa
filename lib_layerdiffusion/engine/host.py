"""What an engine needs of a program that samples, said as a Protocol: the engine is handed a host and imports none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor, nn

from lib_layerdiffusion.engine.request import PictureRequest
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.transparency import LatentTransparency
from lib_layerdiffusion.unet.injection import Injection

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class PromptEmbedding:
    """context: [1, T, C] for cross-attention. pooled: [1, P] of the last encoder (SDXL), None for SD1.5."""

    context: Tensor
    pooled: Tensor | None


class SamplingHost(Protocol):
    """One loaded model, and how it samples.

    families: what it answers to, the first is the default. name: for infotext. source: in words, for people. steps,
    guidance, decode_passes: the model's defaults. sizes: the only ones (width, height) that it makes; empty for any.
    subjects: what a small model can be asked for, empty for one that knows everything. words: all words that a small
    model knows, in small letters.
    """

    families: tuple[Family, ...]
    name: str
    source: str
    steps: int
    guidance: float
    decode_passes: int
    sizes: tuple[tuple[int, int], ...]
    subjects: tuple[str, ...]
    words: frozenset[str]

    @property
    def default_size(self) -> int:
        """The side that the model was trained on, in pixels."""
        ...

    @property
    def scaling(self) -> float:
        """What the VAE's latents are multiplied with for the UNet."""
        ...

    def family(self) -> Family:
        """The default family of the loaded model."""
        ...

    def check(self, family: Family, label: str) -> None:
        """Raise ModelError unless a method of `family`, called `label`, fits the loaded model."""
        ...

    @property
    def own_sampler(self) -> str:
        """Infotext name of the model's own sampler."""
        ...

    def sampler(self, name: str) -> AbstractContextManager[Mapping[str, str]]:
        """A sampler for the time of a `with`, "" for the model's own; gives its infotext keys.

        Raises:
            SettingsError: there is none of that name.
        """
        ...

    def broken_part(self) -> str:
        """Which part of the model has weights that nothing can be computed with, in words; "" where none has."""
        ...

    def encode_prompts(
        self, prompt: str, negative: str, frames: Sequence[str]
    ) -> tuple[PromptEmbedding, PromptEmbedding, PromptEmbedding | None]:
        """Embeddings of the prompt, the negative prompt, and of all frames' own prompts together."""
        ...

    def encode_start(self, picture: Picture, transparency: LatentTransparency | None) -> Tensor:
        """Latents [1, 4, H/8, W/8] in the UNet's scale of a picture flattened on grey, its alpha hidden if asked."""
        ...

    def placed(self, network: Network, *, exact: bool = False) -> Network:
        """A transparency network where and in the precision in which the host computes.

        exact: no less precise than that for speed.
        """
        ...

    def injected(
        self, injection: Injection, frames: PromptEmbedding | None, batch: int
    ) -> AbstractContextManager[None]:
        """The injection for the time of a `with`.

        Raises:
            LayerDiffusionError: it does not fit; the UNet is untouched then.
        """
        ...

    def sample(
        self,
        request: PictureRequest,
        prompt: PromptEmbedding,
        negative: PromptEmbedding,
        start: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Sample the request's latents [B, 4, H/8, W/8], in the UNet's scale."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [0, 1], float32, of latents in the UNet's scale."""
        ...
