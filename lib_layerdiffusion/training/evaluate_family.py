"""An exported family in memory, and the measures that its figures are made of."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.networks.transparent_decoder import TransparentDecoder
from lib_layerdiffusion.networks.transparent_encoder import TransparentEncoder
from lib_layerdiffusion.training.base import TextSide, sample_latents
from lib_layerdiffusion.training.layers import RECIPES, widen
from lib_layerdiffusion.training.synthesis import premultiply_grey
from lib_layerdiffusion.unet.injection import WeightOffsets
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm

NINE_COLOURS = [(v, v, v) for v in (0.0, 0.5, 1.0)] + [
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)
]  # fmt: skip


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
    def decode(self, latent: Tensor, *, see_latent: bool = True) -> Tensor:
        """Straight RGBA [N, 4, H, W] of a VAE-scale latent, one pass; without the latent D sees the picture alone."""
        seen = latent if see_latent else torch.zeros_like(latent)
        parts = [
            self.decoder(self.pixels(part), beside).clamp(0, 1)
            for part, beside in zip(latent.split(32), seen.split(32), strict=True)
        ]
        return torch.cat([torch.cat(parts)[:, 1:], torch.cat(parts)[:, :1]], dim=1)

    def generate(self, prompts: list[str], *, seed: int = 0, steps: int = 10, unet: nn.Module | None = None) -> Tensor:
        """RGBA pictures of prompts, with the `transparent` layer unless a UNet is given."""
        unet = unet or self.unet("transparent_attn")
        return self.decode(sample_latents(unet, self.text, prompts, steps=steps, seed=seed) / self.scale)
