"""Stage `vae`: a small AutoencoderKL for pictures on grey, on colour and on backgrounds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from lib_layerdiffusion.images.files import write_png
from lib_layerdiffusion.training.adversary import PatchDiscriminator, adversarial_losses
from lib_layerdiffusion.training.data import IconSet, picture_size
from lib_layerdiffusion.training.losses import decibels, multiscale_gradient
from lib_layerdiffusion.training.pools import draw, scene_pool, soft_pool
from lib_layerdiffusion.training.synthesis import premultiply_grey, uniform

VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (16, 32, 64, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    # More groups lose colour: with 8 groups the same training ends 1.2 dB lower.
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
}
KL_WEIGHT = 1e-3
ADVERSARY_WEIGHT = 0.01


def new_vae(size: int = 128) -> nn.Module:
    """A fresh small AutoencoderKL (factor 8, 4 channels) for pictures of `size` pixels a side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**{**VAE_CONFIG, "sample_size": size})


def icons_tensor(icons: IconSet) -> Tensor:
    """[N, 4, S, S] uint8, straight padded colour and alpha."""
    return torch.from_numpy(np.ascontiguousarray(icons.rgba)).permute(0, 3, 1, 2)


def draw_icons(icons: Tensor, count: int, generator: Generator) -> Tensor:
    """Random icons as [count, 4, S, S] floats, mirrored half of the time."""
    rows = torch.randint(len(icons), (count,), generator=generator, device=generator.device)
    batch = icons[rows].float() / 255
    return torch.where(uniform(generator, count, 1, 1, 1) < 0.5, batch.flip(-1), batch)


def aligned_crop(pictures: Tensor, crop: int, generator: Generator) -> Tensor:
    """The same square of every picture [N, C, S, S], aligned to cells of 8 pixels: [N, C, crop, crop]."""
    size, inside = pictures.shape[-1], torch.arange(crop, device=generator.device)
    for axis in (2, 3) if size > crop else ():
        first = 8 * torch.randint((size - crop) // 8 + 1, (1,), generator=generator, device=generator.device)
        pictures = pictures.index_select(axis, first + inside)
    return pictures


def save_grid(path: Path, rows: list[Tensor]) -> None:
    """Write rows of [N, 3, H, W] pictures in [0, 1] as one PNG; shorter rows end in black."""
    columns = max(len(row) for row in rows)
    filled = [F.pad(row, (0, 0, 0, 0, 0, 0, 0, columns - len(row))) for row in rows]
    grid = torch.cat([torch.cat(list(row), dim=-1) for row in filled], dim=-2).clamp(0, 1)
    write_png(path, (grid.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8))


class VaeStage:
    """Trains the VAE: half of the pictures on grey, the rest on padded colour and on backgrounds.

    Whole pictures (crop = their size) beat crops: the normalisation sees what it sees in use, and two CPU threads get
    through twice as many pixels a second. fixed_encoder: the way back learns alone, so that latents stay what they are.
    """

    def __init__(
        self, data: Path, crop: int = 256, vae: nn.Module | None = None, *, fixed_encoder: bool = False
    ) -> None:
        self.vae = (vae or new_vae(picture_size(data))).to(memory_format=torch.channels_last)
        self.judge = PatchDiscriminator(channels=3).to(memory_format=torch.channels_last)
        self.modules, self.frozen = {"vae": self.vae, "judge": self.judge}, ()
        for name in ("encoder", "quant_conv") if fixed_encoder else ():
            self.vae.get_submodule(name).requires_grad_(requires_grad=False)
        self.icons = icons_tensor(IconSet.load(data, held_out=False))
        self.checks = icons_tensor(IconSet.load(data, held_out=True))
        size = self.icons.shape[-1]
        self.soft, self.scenes = soft_pool(size), scene_pool(size)
        self.crop = min(crop, size)

    def pictures(self, count: int, generator: Generator) -> Tensor:
        """Draw training pictures, [count, 3, S, S] in [0, 1]."""
        rgba = draw_icons(self.icons, count, generator)
        soft = max(1, count // 8)
        rgba[:soft] = draw(self.soft, soft, generator)
        grey = premultiply_grey(rgba)
        pads = rgba[:, :3]
        scenes = draw(self.scenes, count, generator)
        blends = rgba[:, :3] * rgba[:, 3:] + scenes * (1 - rgba[:, 3:])
        choice = uniform(generator, count, 1, 1, 1)
        return torch.where(choice < 0.55, grey, torch.where(choice < 0.7, pads, blends))

    def compile(self) -> None:
        """Compile both halves."""
        for half in ("encoder", "decoder"):
            self.vae.get_submodule(half).compile(dynamic=False)

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 + error in decibels + multi-scale gradients + a little KL and adversary, on whole pictures or crops."""
        target = aligned_crop(self.pictures(batch, generator), self.crop, generator) * 2 - 1
        target = target.contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample.float()
        squares = (decoded - target).square()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.l1_loss(decoded, target) + 0.25 * decibels(squares.mean(dim=(1, 2, 3))) + KL_WEIGHT * kl
        loss = loss + 0.5 * multiscale_gradient(decoded, target)
        # Flat colour is what this VAE learns last, so mean colours of 8 px cells and hue (colour less its mean) count
        # extra.
        loss = loss + F.l1_loss(F.avg_pool2d(decoded, 8), F.avg_pool2d(target, 8))
        hue = (decoded - decoded.mean(dim=1, keepdim=True)) - (target - target.mean(dim=1, keepdim=True))
        loss = loss + hue.abs().mean()
        fooled, told = adversarial_losses(self.judge, decoded / 2 + 0.5, target / 2 + 0.5)
        loss = loss + ADVERSARY_WEIGHT * (fooled + told)
        mse = squares.mean().detach() / 4
        return loss, {"mse_db": -10 * torch.log10(mse), "kl": kl.detach(), "told": told.detach()}

    def sample(self, path: Path) -> None:
        """Held-out icons on grey and their reconstructions."""
        shown = premultiply_grey(self.checks[:: max(1, len(self.checks) // 10)][:10].float() / 255)
        decoded = self.vae.decode(self.vae.encode(shown * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        save_grid(path, [shown, decoded])
