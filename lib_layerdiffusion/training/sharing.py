"""Stage `layer` for the attention-sharing methods: the frames of one picture learn to see each other.

The batch holds frames of consecutive pictures; the base UNet stays frozen and the units around its attention layers
learn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from lib_layerdiffusion.networks import AttentionSharing, SharingRun
from lib_layerdiffusion.training.base import TextSide, new_scheduler
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, uniform
from lib_layerdiffusion.training.text import EMPTY_TEXT_SHARE, TEMPLATES, Prompts
from lib_layerdiffusion.unet.ldm_keys import attention_units

SHARED_TEXT_SHARE = 0.35
"""How often all frames have the blended picture's prompt, as when a user writes a single one."""


@dataclass(frozen=True)
class SharingRecipe:
    """What a method's file is trained on: the target of each frame, and the condition picture if it has one.

    condition_widths: of the condition encoder; the published ones are 32, 64, 128, 256.
    """

    file: str
    frames: tuple[str, ...]
    condition: str | None = None
    rank: int = 4
    condition_widths: tuple[int, ...] = (8, 16, 16, 16)


SHARING_RECIPES = {
    "sd15_transparent_attn": SharingRecipe("layer_sd15_transparent_attn", ("adjusted",)),
    "sd15_joint": SharingRecipe("layer_sd15_joint", ("adjusted", "bg", "blend")),
    "sd15_fg2bg": SharingRecipe("layer_sd15_fg2bg", ("bg", "blend"), condition="fg"),
    "sd15_bg2fg": SharingRecipe("layer_sd15_bg2fg", ("adjusted", "blend"), condition="bg"),
}


class UnitProcessor:
    """A diffusers attention processor that runs a sharing unit around its layer, also under autograd."""

    def __init__(self, unit: nn.Module, run: SharingRun) -> None:
        self.unit, self.run = unit, run

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Hidden states [B, N, C] and text [B, M, D] -> [B, N, C]."""
        del attention_mask, options
        return self.unit(hidden_states, attn, encoder_hidden_states, self.run)


def new_sharing(unet: nn.Module, recipe: SharingRecipe) -> AttentionSharing:
    """Fresh units for every attention layer of a UNet; they change nothing yet."""
    modules = dict(unet.named_modules())
    widths: list[tuple[int, int | None]] = []
    for name in attention_units(unet.config):
        layer = modules[name]
        channels, source = layer.to_q.in_features, layer.to_k.in_features  # type: ignore[union-attr]
        widths.append((channels, source if name.endswith("attn2") else None))
    conditions = recipe.condition_widths if recipe.condition else None
    return AttentionSharing(widths, frames=len(recipe.frames), rank=recipe.rank, condition_channels=conditions)


def attach(unet: nn.Module, sharing: AttentionSharing, run: SharingRun) -> None:
    """Put the units around a UNet's attention layers."""
    modules = dict(unet.named_modules())
    for name, unit in zip(attention_units(unet.config), sharing.units, strict=True):
        modules[name].processor = UnitProcessor(unit, run)


class SharingStage:
    """Trains one attention-sharing file on precomputed latents of the same picture's layers.

    pairs: as :func:`lib_layerdiffusion.training.layers.paired_latents` gives them; for a method with a condition also
    `pixels_<condition>`, [N, 3, H, W] uint8.
    """

    def __init__(
        self,
        recipe: SharingRecipe,
        unet: nn.Module,
        text: TextSide,
        pairs: dict[str, Any],
        scale: float,
    ) -> None:
        self.recipe, self.text, self.pairs, self.scale = recipe, text, pairs, scale
        self.unet = unet.requires_grad_(requires_grad=False)
        text.encoder.requires_grad_(requires_grad=False)
        self.sharing = new_sharing(unet, recipe)
        self.shared_run = SharingRun()
        attach(unet, self.sharing, self.shared_run)
        self.modules = {"sharing": self.sharing}
        self.frozen = (unet, text.encoder)
        self.prompts = Prompts()
        self.first = torch.tensor([self._first(row) for row in range(len(pairs["rows"]))])
        self.states = text.numbered(self.prompts.texts)
        self.use_schedule(new_scheduler())

    def use_schedule(self, scheduler: Any) -> None:
        """Train on another noise schedule and prediction type than the family's own."""
        self.alphas = scheduler.alphas_cumprod
        self.prediction = str(scheduler.config.prediction_type)

    def _first(self, row: int) -> list[int]:
        """The first number of each frame's prompts, and at the end that of the prompt for all."""
        scene = list(BACKGROUNDS)[int(self.pairs["kinds"][row])]
        subject = self.pairs["words"][int(self.pairs["rows"][row])]
        blended = self.prompts.add(subject, scene)
        own = {"adjusted": self.prompts.add(subject), "bg": self.prompts.add("", scene)}
        return [*(own.get(frame, blended) for frame in self.recipe.frames), blended]

    def numbers(self, rows: Tensor, generator: Generator) -> Tensor:
        """The prompt of each frame of pictures, by its number, [pictures, frames]."""
        first = self.first[rows]
        own, blended = first[:, :-1], first[:, -1:]
        template = torch.randint(len(TEMPLATES), own.shape, generator=generator, device=generator.device)
        chance = uniform(generator, len(rows), 1)
        shared = chance < EMPTY_TEXT_SHARE + (1 - EMPTY_TEXT_SHARE) * SHARED_TEXT_SHARE
        found = torch.where(shared, blended + template[:, :1], own + template)
        return found.masked_fill(chance < EMPTY_TEXT_SHARE, 0)

    def compile(self) -> None:
        """Nothing: each method would have its own minute of compiling, more than it gains."""

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Velocity (or noise) error over all frames; the frames of a picture share its time, not its noise."""
        frames, place = len(self.recipe.frames), generator.device
        rows = torch.randint(len(self.pairs["rows"]), (max(1, batch // frames),), generator=generator, device=place)
        if self.recipe.condition:
            pixels = self.pairs[f"pixels_{self.recipe.condition}"][rows].float() / 255
            # One picture serves the whole batch in use; here each has its own.
            self.shared_run.signals = self.sharing.signals(pixels)
        latents = torch.stack([self.pairs[frame][rows] for frame in self.recipe.frames], dim=1).flatten(0, 1)
        latents = latents * self.scale
        with torch.no_grad():
            text = self.states(self.numbers(rows, generator).flatten())
        times = torch.randint(len(self.alphas), (len(rows),), generator=generator, device=place)
        times = times.repeat_interleave(frames)
        noise = torch.randn(latents.shape, generator=generator, device=place)
        signal, sigma = (x.sqrt()[:, None, None, None] for x in (self.alphas[times], 1 - self.alphas[times]))
        target = noise if self.prediction == "epsilon" else signal * noise - sigma * latents
        found = self.unet(signal * latents + sigma * noise, times, text).sample.float()
        return F.mse_loss(found, target), {}

    def sample(self, path: Path) -> None:
        """Nothing to draw here: layers are judged by `evaluate`."""
        del path

    def published(self) -> dict[str, Tensor]:
        """The file's tensors, named as published (`hookers.layers.<i>...`), fp16."""
        return {key: value.detach().half().contiguous() for key, value in self.sharing.state_dict().items()}
