"""Stage `layer`: the file of one weight-offset method, trained as low-rank changes on the frozen base UNet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.base import TextSide, encode, in_scene, new_scheduler, velocity_loss
from lib_layerdiffusion.training.devices import fastest_device
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, pick, premultiply_grey
from lib_layerdiffusion.training.text import Prompts
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.training.variety import Depictions
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm

ATTENTION = (".to_q.", ".to_k.", ".to_v.", ".to_out.")
LATENTS = 4


@dataclass(frozen=True)
class Recipe:
    """What a method's file is trained on: condition latents in order, the target, and where the changes go."""

    file: str
    conditions: tuple[str, ...]
    target: str
    scene_in_prompt: bool
    attention_rank: int = 8
    other_rank: int = 0
    subject_in_prompt: bool = True


RECIPES = {
    # The finest level of a UNet for 256 pixels has no attention: what E adds there, convolutions have to learn.
    "transparent_attn": Recipe("layer_xl_transparent_attn", (), "adjusted", scene_in_prompt=False, other_rank=2),
    "transparent_conv": Recipe("layer_xl_transparent_conv", (), "adjusted", scene_in_prompt=False,
                               attention_rank=0, other_rank=2),
    "bg2ble": Recipe("layer_xl_bg2ble", ("bg",), "blend", scene_in_prompt=True, other_rank=2),
    "fg2ble": Recipe("layer_xl_fg2ble", ("fg",), "blend", scene_in_prompt=True, attention_rank=4, other_rank=2),
    "bgble2fg": Recipe("layer_xl_bgble2fg", ("bg", "blend"), "adjusted", scene_in_prompt=False, attention_rank=4,
                       other_rank=2),
    "fgble2bg": Recipe("layer_xl_fgble2bg", ("fg", "blend"), "bg", scene_in_prompt=True, attention_rank=4, other_rank=2,
                       subject_in_prompt=False),
}  # fmt: skip


class LowRank(nn.Module):
    """A trainable up @ down added to a frozen weight of any shape; zero at the start."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape)


class Difference(nn.Module):
    """A trainable change of a frozen weight's own shape; zero at the start."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.change


def add_changes(unet: nn.Module, recipe: Recipe) -> dict[str, nn.Module]:
    """Freeze a UNet and put trainable changes on it; return them by parameter name (diffusers layout)."""
    unet.requires_grad_(requires_grad=False)
    if recipe.conditions:
        widen(unet, LATENTS * (1 + len(recipe.conditions)))
    changes: dict[str, nn.Module] = {}
    for name, module in list(unet.named_modules()):
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        rank = recipe.attention_rank if any(part in f"{name}." for part in ATTENTION) else recipe.other_rank
        if name == "conv_in" and (recipe.conditions or recipe.other_rank):
            changes["conv_in.weight"] = Difference(module.weight)
        elif rank:
            changes[f"{name}.weight"] = LowRank(module.weight, rank)
    modules = dict(unet.named_modules())
    for key, change in changes.items():
        parametrize.register_parametrization(modules[key.removesuffix(".weight")], "weight", change)
    return changes


def widen(unet: nn.Module, channels: int) -> None:
    """Give `conv_in` more input channels; the new ones start at zero."""
    old = unet.get_submodule("conv_in")
    if not isinstance(old, nn.Conv2d):
        raise SettingsError("This UNet has no convolution as its first layer; use an SD1.5 or SDXL checkpoint.")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    unet.conv_in = new.requires_grad_(requires_grad=False)


def published_keys(changes: Mapping[str, nn.Module], config: Mapping[str, object]) -> dict[str, Tensor]:
    """Name trained changes in the published grammar: `diffusion_model.<ldm name>::<lora|diff>::<index>`, fp16."""
    names = diffusers_to_ldm(config)
    tensors: dict[str, Tensor] = {}
    for key, change in changes.items():
        root = f"diffusion_model.{names[key]}::"
        if isinstance(change, LowRank):
            tensors[f"{root}lora::0"] = change.up.detach().half().contiguous()
            tensors[f"{root}lora::1"] = change.down.detach().half().contiguous()
        elif isinstance(change, Difference):
            tensors[f"{root}diff::0"] = change.change.detach().half().contiguous()
    return tensors


@torch.no_grad()
def paired_latents(stage: TransparencyStage, pictures: Depictions, seed: int = 5) -> dict[str, Any]:
    """VAE-scale latents of the same pictures as foreground (`fg`, `adjusted`), background (`bg`) and `blend`.

    Each picture stands in a scene of its own. Returns also `kinds` (scene of each), `rows` (which of `words` are its
    own), and `pixels_fg` and `pixels_bg`, uint8 [N, 3, S, S].
    """
    place = fastest_device()
    for network in (stage.vae, stage.encoder):
        network.to(place)
    generator = torch.Generator().manual_seed(seed)
    kinds = [pick(generator, len(BACKGROUNDS)) for _ in range(len(pictures))]
    found: dict[str, list[Tensor]] = {name: [] for name in ("fg", "adjusted", "bg", "blend", "pixels_fg", "pixels_bg")}
    for start in range(0, len(pictures), 16):
        rgba = pictures.rgba[start : start + 16]
        pairs = zip(rgba, kinds[start : start + 16], strict=True)
        scenes, blends = (
            torch.stack(part)
            for part in zip(*[in_scene(one, list(BACKGROUNDS)[kind], generator) for one, kind in pairs], strict=True)
        )
        grey = premultiply_grey(rgba.float() / 255)
        found["fg"].append(encode(stage.vae, grey))
        found["adjusted"].append(stage.encode(rgba.to(place).float() / 255)[0].cpu())
        found["bg"].append(encode(stage.vae, scenes))
        found["blend"].append(encode(stage.vae, blends))
        for name, pixels in (("pixels_fg", grey), ("pixels_bg", scenes)):
            found[name].append((pixels * 255).round().to(torch.uint8))
    words = list(dict.fromkeys(pictures.words))
    numbers = {word: number for number, word in enumerate(words)}
    rows = torch.tensor([numbers[word] for word in pictures.words])
    together = {name: torch.cat(parts) for name, parts in found.items()}
    return {**together, "rows": rows, "kinds": torch.tensor(kinds), "words": words}


class LayerStage:
    """Trains one method's changes on precomputed pairs of latents."""

    def __init__(
        self, recipe: Recipe, unet: nn.Module, text: TextSide, pairs: dict[str, Any], scale: float,
    ) -> None:  # fmt: skip
        self.recipe, self.unet, self.text, self.pairs = recipe, unet, text, pairs
        self.scale = scale
        text.encoder.requires_grad_(requires_grad=False)
        self.changes = add_changes(unet, recipe)
        self.modules = {key.replace(".", "_"): change for key, change in self.changes.items()}
        self.frozen = (unet, text.encoder)
        self.prompts = Prompts()
        self.first = torch.tensor([self._first(row) for row in range(len(pairs["rows"]))])
        self.states = text.numbered(self.prompts.texts)
        self.use_schedule(new_scheduler())

    def use_schedule(self, scheduler: Any) -> None:
        """Train on another noise schedule and prediction type than the family's own."""
        self.alphas = scheduler.alphas_cumprod
        self.prediction = str(scheduler.config.prediction_type)

    def _first(self, row: int) -> int:
        """The first number of a pair's training prompts."""
        scene = list(BACKGROUNDS)[int(self.pairs["kinds"][row])]
        if not self.recipe.subject_in_prompt:
            return self.prompts.add("", scene)
        subject = self.pairs["words"][int(self.pairs["rows"][row])]
        return self.prompts.add(subject, scene if self.recipe.scene_in_prompt else None)

    def compile(self) -> None:
        """Nothing: each method would have its own minute of compiling, more than it gains."""

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Velocity error with the condition latents beside the noise."""
        rows = torch.randint(len(self.pairs["rows"]), (batch,), generator=generator, device=generator.device)
        target = self.pairs[self.recipe.target][rows] * self.scale
        conditions = [self.pairs[name][rows] * self.scale for name in self.recipe.conditions]
        with torch.no_grad():
            text = self.states(self.prompts.draw(self.first[rows], generator))
        unet = Conditioned(self.text.bound(self.unet), conditions)
        return velocity_loss(unet, self.alphas, target, text, generator, prediction=self.prediction), {}

    def published(self) -> dict[str, Tensor]:
        """The file's tensors in the published grammar, fp16."""
        return published_keys(self.changes, self.unet.config)

    def sample(self, path: Path) -> None:
        """Nothing to draw here: layers are judged by `evaluate`."""
        del path


class Conditioned(nn.Module):
    """A UNet that reads condition latents beside its input; repeats them for the two halves of guidance."""

    def __init__(self, unet: nn.Module, conditions: list[Tensor]) -> None:
        super().__init__()
        self.unet, self.conditions = unet, conditions

    def forward(self, latents: Tensor, time: Tensor, text: Tensor) -> object:
        beside = [c.to(latents).repeat(len(latents) // len(c), 1, 1, 1) for c in self.conditions]
        return self.unet(torch.cat([latents, *beside], dim=1), time, text)
