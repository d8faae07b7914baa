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
from lib_layerdiffusion.training.base import EMPTY_TEXT_SHARE, TextSide, new_scheduler
from lib_layerdiffusion.training.loop import device_of
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, uniform
from lib_layerdiffusion.training.text import prompt
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
        self.use_schedule(new_scheduler())

    def use_schedule(self, scheduler: Any) -> None:
        """Train on another noise schedule and prediction type than the family's own."""
        self.alphas = scheduler.alphas_cumprod
        self.prediction = str(scheduler.config.prediction_type)

    def words(self, row: int, generator: Generator) -> list[str]:
        """The prompt of each frame of a picture."""
        if float(uniform(generator, 1)) < EMPTY_TEXT_SHARE:
            return [""] * len(self.recipe.frames)
        scene = list(BACKGROUNDS)[int(self.pairs["kinds"][row])]
        subject = self.pairs["words"][int(self.pairs["rows"][row])]
        if float(uniform(generator, 1)) < SHARED_TEXT_SHARE:
            return [prompt(subject, generator, scene)] * len(self.recipe.frames)
        texts = {"adjusted": prompt(subject, generator), "bg": f"{scene} background"}
        return [texts.get(frame, prompt(subject, generator, scene)) for frame in self.recipe.frames]

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Velocity (or noise) error over all frames; the frames of a picture share its time, not its noise."""
        frames = len(self.recipe.frames)
        # A condition picture serves the whole batch, as in use: one picture at a time then.
        pictures = 1 if self.recipe.condition else max(1, batch // frames)
        rows = torch.randint(len(self.pairs["rows"]), (pictures,), generator=generator)
        if self.recipe.condition:
            rows = rows.expand(max(1, batch // frames))
            pixels = self.pairs[f"pixels_{self.recipe.condition}"][rows[:1]].float() / 255
            pixels = pixels.to(device_of(self.unet))
            self.shared_run.signals = self.sharing.signals(pixels)
        latents = torch.stack([self.pairs[frame][rows] for frame in self.recipe.frames], dim=1).flatten(0, 1)
        latents = latents * self.scale
        prompts = [words for row in rows for words in self.words(int(row), generator)]
        with torch.no_grad():
            text = self.text(prompts)
        times = torch.randint(len(self.alphas), (len(rows),), generator=generator).repeat_interleave(frames)
        alphas = self.alphas[times].to(text.device)
        noise = torch.randn(latents.shape, generator=generator).to(text.device)
        latents, times = latents.to(text.device), times.to(text.device)
        signal, sigma = (x.sqrt()[:, None, None, None] for x in (alphas, 1 - alphas))
        target = noise if self.prediction == "epsilon" else signal * noise - sigma * latents
        found = self.unet(signal * latents + sigma * noise, times, text).sample.float()
        return F.mse_loss(found, target), {}

    def sample(self, path: Path) -> None:
        """Nothing to draw here: layers are judged by `evaluate`."""
        del path

    def published(self) -> dict[str, Tensor]:
        """The file's tensors, named as published (`hookers.layers.<i>...`), fp16."""
        return {key: value.detach().half().contiguous() for key, value in self.sharing.state_dict().items()}
