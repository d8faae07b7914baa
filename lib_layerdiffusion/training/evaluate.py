"""`layerdiffusion evaluate`: the figures of an exported family, as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.injection import WeightOffsets
from lib_layerdiffusion.ldm_keys import diffusers_to_ldm
from lib_layerdiffusion.networks.transparent_decoder import TransparentDecoder
from lib_layerdiffusion.networks.transparent_encoder import TransparentEncoder
from lib_layerdiffusion.training.base import TextSide, encode, sample_latents
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.layers import RECIPES, conditioned_sample, widen
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background, premultiply_grey, translucent
from lib_layerdiffusion.training.transparency import greyed
from lib_layerdiffusion.training.vae import icons_tensor, save_grid

NINE_COLOURS = [(v, v, v) for v in (0.0, 0.5, 1.0)] + [
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)
]  # fmt: skip
BORDER = 4


def psnr(ours: Tensor, theirs: Tensor, where: Tensor | None = None) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, values in [0, 1], optionally inside a mask."""
    weight = torch.ones_like(theirs) if where is None else where.expand_as(theirs)
    error = ((ours - theirs) ** 2 * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
    return float((-10 * torch.log10(error.clamp_min(1e-10))).mean())


def over(rgba: Tensor, scene: Tensor) -> Tensor:
    """Composite straight RGBA [N, 4, H, W] over [N, 3, H, W] or a colour that broadcasts."""
    return scene + (rgba[:, :3] - scene) * rgba[:, 3:]


def composite_psnr(ours: Tensor, theirs: Tensor) -> float:
    """PSNR of composites, mean over nine background colours."""
    colours = [torch.tensor(colour)[None, :, None, None] for colour in NINE_COLOURS]
    return sum(psnr(over(ours, c), over(theirs, c)) for c in colours) / len(colours)


@dataclass
class Family:
    """An exported family in memory, as its users get it."""

    folder: Path
    vae: nn.Module
    text: TextSide
    encoder: TransparentEncoder
    decoder: TransparentDecoder
    scale: float

    @classmethod
    def load(cls, folder: Path) -> "Family":
        """Read a family from a diffusers folder with a `layers` folder inside.

        Raises:
            InputError: there is none.
        """
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTokenizer

        layers = folder / "layers"
        if not (layers / "vae_transparent_decoder.safetensors").exists():
            raise InputError(f"There is no exported family in {folder}; run `layerdiffusion train export` first.")
        encoder = load_file(layers / "vae_transparent_encoder.safetensors")
        decoder = load_file(layers / "vae_transparent_decoder.safetensors")
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").float().eval()
        text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float().eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        return cls(
            folder, vae, TextSide(tokenizer, text),
            TransparentEncoder.from_state_dict({key: value.float() for key, value in encoder.items()}),
            TransparentDecoder.from_state_dict({key: value.float() for key, value in decoder.items()}),
            float(vae.config.scaling_factor),
        )  # fmt: skip

    @property
    def subjects(self) -> list[str]:
        """The subjects that the family knows."""
        return (self.folder / "subjects.txt").read_text().split("\n")[:-1]

    def unet(self, method: str | None = None) -> nn.Module:
        """The base UNet, with a layer file merged in where a method is named."""
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(self.folder, subfolder="unet").float().eval()
        if method is not None:
            recipe = RECIPES[method]
            offsets = WeightOffsets.from_state_dict(load_file(self.folder / "layers" / f"{recipe.file}.safetensors"))
            if recipe.conditions:
                widen(unet, 4 * (1 + len(recipe.conditions)))
            parameters = dict(unet.named_parameters())
            ours = {theirs: name for name, theirs in diffusers_to_ldm(unet.config).items()}
            with torch.no_grad():
                for key, patch in offsets.items():
                    parameters[ours[key]].copy_(patch.merge(parameters[ours[key]], 1.0))
        return unet.requires_grad_(requires_grad=False)

    def has(self, method: str) -> bool:
        """Whether the family ships this method's file."""
        return (self.folder / "layers" / f"{RECIPES[method].file}.safetensors").exists()

    @torch.no_grad()
    def encode(self, rgba: Tensor, *, offset: bool = True) -> Tensor:
        """VAE-scale latent of straight RGBA [N, 4, H, W], with or without the transparency offset."""
        parts: list[Tensor] = []
        for part in rgba.split(32):
            posterior = self.vae.encode(premultiply_grey(part) * 2 - 1).latent_dist
            change = self.encoder(torch.cat([part[:, 3:], part[:, :3]], dim=1)) if offset else 0
            parts.append(posterior.mean + posterior.std * change)
        return torch.cat(parts)

    @torch.no_grad()
    def pixels(self, latent: Tensor) -> Tensor:
        """The plain VAE's picture [N, 3, H, W] in [0, 1] of a VAE-scale latent."""
        return torch.cat([(self.vae.decode(part).sample / 2 + 0.5).clamp(0, 1) for part in latent.split(32)])

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Straight RGBA [N, 4, H, W] of a VAE-scale latent, one pass."""
        parts = [self.decoder(self.pixels(part), part).clamp(0, 1) for part in latent.split(32)]
        return torch.cat([torch.cat(parts)[:, 1:], torch.cat(parts)[:, :1]], dim=1)

    def generate(self, prompts: list[str], *, seed: int = 0, steps: int = 10, unet: nn.Module | None = None) -> Tensor:
        """RGBA pictures of prompts, with the `transparent` layer unless a UNet is given."""
        unet = unet or self.unet("transparent_attn")
        return self.decode(sample_latents(unet, self.text, prompts, steps=steps, seed=seed) / self.scale)


def _cut_out(rgba: Tensor, *, grab: bool) -> Tensor:
    """Alpha [N, 1, H, W] by what a user would do with the picture on a plain green ground."""
    green = torch.tensor([0.0, 0.8, 0.0])[None, :, None, None]
    shown = over(rgba, green)
    if not grab:
        return ((shown - green).abs().amax(dim=1, keepdim=True) / 0.5).clamp(0, 1)
    masks: list[Tensor] = []
    for picture in (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        mask = np.zeros(picture.shape[:2], np.uint8)
        side = picture.shape[0]
        buffers = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(picture), mask, (3, 3, side - 6, side - 6), *buffers, 4, cv2.GC_INIT_WITH_RECT)
        masks.append(torch.from_numpy((mask & 1).astype(np.float32))[None])
    return torch.stack(masks)


def reconstruction_figures(family: Family, data: Path, limit: int = 120) -> dict[str, float]:
    """RGBA reconstruction, the ablation without the latent's offset, identity, and what cutting out would give."""
    held = icons_tensor(IconSet.load(data, held_out=True))
    icons = held[:: max(1, len(held) // limit)].float() / 255
    generator = torch.Generator().manual_seed(11)
    soft, grey = translucent(generator, icons.shape[-1], 60), greyed(icons, generator)
    found = {name: family.decode(family.encode(x)) for name, x in (("icons", icons), ("soft", soft), ("grey", grey))}
    blind = {name: family.decode(family.encode(x, offset=False)) for name, x in (("soft", soft), ("grey", grey))}

    def mae(ours: Tensor, theirs: Tensor) -> float:
        return float((ours[:, 3:] - theirs[:, 3:]).abs().mean())

    partly = ((soft[:, 3:] > 0.05) & (soft[:, 3:] < 0.95)).float()

    def soft_mae(alpha: Tensor) -> float:
        return float(((alpha - soft[:, 3:]).abs() * partly).sum() / partly.sum())

    shown = premultiply_grey(icons)
    plain = psnr(family.pixels(family.encode(icons, offset=False)), shown)
    adjusted = psnr(family.pixels(family.encode(icons)), shown)
    return {
        "held-out composites, PSNR dB": composite_psnr(found["icons"], icons),
        "held-out alpha MAE": mae(found["icons"], icons),
        "translucent alpha MAE": mae(found["soft"], soft),
        "translucent alpha MAE without the offset": mae(blind["soft"], soft),
        "grey subjects alpha MAE": mae(found["grey"], grey),
        "grey subjects alpha MAE without the offset": mae(blind["grey"], grey),
        "plain VAE on the plain latent, PSNR dB": plain,
        "plain VAE on the adjusted latent, PSNR dB": adjusted,
        "soft regions alpha MAE: ours": soft_mae(found["soft"][:, 3:]),
        "soft regions alpha MAE: colour key": soft_mae(_cut_out(soft, grab=False)),
        "soft regions alpha MAE: GrabCut": soft_mae(_cut_out(soft, grab=True)),
    }


def features(rgba: Tensor) -> Tensor:
    """A small description of RGBA pictures: colour on grey and alpha at 16x16, [N, 1024]."""
    return F.adaptive_avg_pool2d(torch.cat([premultiply_grey(rgba), rgba[:, 3:]], dim=1), 16).flatten(1)


def text_figures(family: Family, data: Path | None, seeds: int = 4, sheet: Path | None = None) -> dict[str, float]:
    """Text to RGBA over all subjects: clean borders, a subject, and (with a data set) the right one."""
    unet = family.unet("transparent_attn")
    subjects = family.subjects
    made = torch.stack([family.generate(subjects, seed=seed, unet=unet) for seed in range(seeds)])
    flat = made.flatten(0, 1)
    alpha = flat[:, 3]
    inner = torch.zeros_like(alpha[0], dtype=torch.bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    mean = alpha.mean((1, 2))
    figures = {
        "clean border, share": float((alpha[:, ~inner].mean(1) < 0.05).float().mean()),
        "a subject, share": float(((mean > 0.05) & (mean < 0.9)).float().mean()),
    }
    if data is not None:
        known = IconSet.load(data, style="3d").only([name.replace(" ", "-") for name in subjects])
        truth = icons_tensor(known).float() / 255
        both = torch.stack([torch.cdist(features(flat), features(t)) for t in (truth, truth.flip(-1))]).amin(0)
        ranks = both.argsort(dim=1)
        right = torch.arange(len(subjects)).repeat(seeds)[:, None]
        figures["the right subject first, share"] = float((ranks[:, :1] == right).float().mean())
        figures["the right subject in the first five, share"] = float((ranks[:, :5] == right).any(1).float().mean())
    if sheet is not None:
        contact_sheet(made[0], sheet)
    return figures


def contact_sheet(rgba: Tensor, path: Path, count: int = 64, columns: int = 16) -> None:
    """Write `count` pictures over a checkerboard, evenly chosen."""
    chosen = rgba[torch.linspace(0, len(rgba) - 1, count).round().long()]
    side = chosen.shape[-1]
    cells = torch.arange(side) // 16
    board = (0.82 + 0.12 * ((cells[:, None] + cells[None]) % 2))[None, None].expand(count, 3, side, side)
    save_grid(path, list(over(chosen, board).split(columns)))


def layer_figures(family: Family, data: Path, count: int = 48) -> dict[str, float]:
    """What the condition methods keep and find, on subjects in scenes."""
    subjects = family.subjects[:: max(1, len(family.subjects) // count)][:count]
    rgba = icons_tensor(IconSet.load(data, style="3d").only([s.replace(" ", "-") for s in subjects])).float() / 255
    generator = torch.Generator().manual_seed(21)
    kinds = [list(BACKGROUNDS)[row % len(BACKGROUNDS)] for row in range(len(rgba))]
    scenes = torch.stack([background(generator, rgba.shape[-1], kind) for kind in kinds])
    blends = over(rgba, scenes)
    latents: dict[str, Tensor] = {
        "fg": encode(family.vae, premultiply_grey(rgba)),
        "bg": encode(family.vae, scenes),
        "blend": encode(family.vae, blends),
    }
    both = [f"{subject}, {kind} background" for subject, kind in zip(subjects, kinds, strict=True)]

    def run(method: str, prompts: list[str]) -> Tensor:
        conditions = [latents[name] * family.scale for name in RECIPES[method].conditions]
        return conditioned_sample(family.unet(method), family.text, prompts, conditions) / family.scale

    figures: dict[str, float] = {}
    if family.has("bg2ble"):
        made = family.pixels(run("bg2ble", both))
        # The new subject lies where the picture changed; all else has to stay.
        changed = ((made - scenes).abs().amax(1, keepdim=True) > 0.12).float()
        outside = 1 - F.max_pool2d(changed, 9, stride=1, padding=4)
        figures["bg2ble: background outside the subject, PSNR dB"] = psnr(made, scenes, outside)
        figures["bg2ble: share of pixels outside"] = float(outside.mean())
    if family.has("fg2ble"):
        inside = (rgba[:, 3:] > 0.99).float()
        figures["fg2ble: foreground inside, PSNR dB"] = psnr(family.pixels(run("fg2ble", both)), blends, inside)
    if family.has("bgble2fg"):
        alpha = family.decode(run("bgble2fg", subjects))[:, 3:]
        figures["bgble2fg: alpha MAE"] = float((alpha - rgba[:, 3:]).abs().mean())
    if family.has("fgble2bg"):
        made = family.pixels(run("fgble2bg", [f"{kind} background" for kind in kinds]))
        figures["fgble2bg: background, PSNR dB"] = psnr(made, scenes)
    return figures


def table(figures: dict[str, Any]) -> str:
    """A Markdown table of figures."""
    rows = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join(["| figure | measured |", "|---|---|", *rows])
