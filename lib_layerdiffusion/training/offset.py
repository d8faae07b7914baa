"""Stage `offset`: the base goes on, and learns to make latents that carry E's offset where its prompt asks for it.

A departure from the paper, whose base model is a published one and stays as it is. In a small UNet the finest level
has no attention, so that changes of attention alone cannot make what E adds there; once the base can make it, they
only have to ask for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lib_layerdiffusion.training.base import BaseStage
from lib_layerdiffusion.training.synthesis import uniform
from lib_layerdiffusion.training.variety import Depictions

OFFSET_SHARE = 0.35
"""How many of the latents carry E's offset."""


class OffsetStage(BaseStage):
    """The base stage, with a share of adjusted latents under marked prompts.

    pairs: as :func:`lib_layerdiffusion.training.layers.paired_latents` gives them: `adjusted` [N, 4, h, w], and the
    number of each one's words. folder: of the stage `base`, whose other latents are used again.
    """

    def __init__(
        self, pictures: Depictions, vae: nn.Module, words: tuple[str, ...], folder: Path, pairs: Mapping[str, Any]
    ) -> None:
        super().__init__(pictures, vae, words, folder)
        self.adjusted: Tensor = pairs["adjusted"] * self.scale
        self.marked = torch.tensor([self.prompts.add(pairs["words"][row], offset=True) for row in pairs["rows"]])
        self.states = self.text.numbered(self.prompts.texts)

    def rescale(self, scale: float) -> None:
        """Use another scaling factor than the one that follows from these pictures."""
        self.adjusted = self.adjusted * (scale / self.scale)
        super().rescale(scale)

    def draw(self, batch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Scaled latents [N, 4, h, w] and the first numbers of their prompts [N], some of them with E's offset."""
        latents, first = super().draw(batch, generator)
        row = torch.randint(len(self.adjusted), (batch,), generator=generator, device=generator.device)
        with_offset = uniform(generator, batch) < OFFSET_SHARE
        latents = torch.where(with_offset[:, None, None, None], self.adjusted[row], latents)
        return latents, torch.where(with_offset, self.marked[row], first)
