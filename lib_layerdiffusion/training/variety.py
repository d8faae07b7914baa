"""Many pictures of each subject: all styles of its name, mirrored, smaller, turned a little, in other colours.

Icon sets have one drawing a name and style. A model that sees each drawing alone gives one picture a prompt, whatever
the seed; and a colour word means something to it only if the same shape comes in several colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Generator, Tensor

from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.matter import MATTER
from lib_layerdiffusion.training.synthesis import pick, uniform
from lib_layerdiffusion.training.vae import icons_tensor
from lib_layerdiffusion.training.workers import in_parallel

HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 115, "blue": 215, "purple": 275, "pink": 325}
"""Colour words -> hue in degrees."""
FLAT_WORDS = ("flat {}", "{}")
"""How a picture of the flat style is asked for: by its style, or like any other, so that seeds differ in style too."""
Bytes = NDArray[np.uint8]
MIRROR_SHARE, FLAT_SHARE, RECOLOUR_SHARE = 0.5, 0.3, 0.25
_SMALLEST, _LARGEST, _TURN = 0.58, 1.03, 24.0
# The share of visible saturated pixels, and of those near their commonest hue, from which on a picture has a colour.
_COLOURED_SHARE, _COMMON_SHARE, _NEAR, _SATURATED = 0.35, 0.6, 35.0, 0.25


@dataclass(frozen=True)
class Depictions:
    """Pictures with words for them: rgba uint8 [N, 4, S, S], straight with padded colour; words, one a picture."""

    rgba: Tensor
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    def fewer(self, each: int, kept: int) -> "Depictions":
        """The first `kept` pictures of every subject, where there are `each`."""
        rows = [row for row in range(len(self)) if row % each < kept]
        return Depictions(self.rgba[rows], tuple(self.words[row] for row in rows))


def moved(rgba: Tensor, generator: Generator) -> Tensor:
    """[4, S, S] straight and padded -> the same mirrored or not, scaled, turned and shifted, still inside."""
    angle = math.radians(float(uniform(generator, 1, low=-_TURN, high=_TURN)))
    scale = float(uniform(generator, 1, low=_SMALLEST, high=_LARGEST))
    room = max(0.0, 0.9 - scale) * 0.5
    dx, dy = uniform(generator, 2, low=-room, high=room).tolist()
    mirror = -1.0 if float(uniform(generator, 1)) < MIRROR_SHARE else 1.0
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = torch.tensor([[mirror * cosine, mirror * sine, -mirror * dx], [-sine, cosine, -dy]])
    grid = F.affine_grid(matrix[None], [1, 4, *rgba.shape[-2:]], align_corners=False)
    # Colour goes on beyond the frame, alpha ends there.
    colour = F.grid_sample(rgba[None, :3], grid, mode="bilinear", padding_mode="border", align_corners=False)
    alpha = F.grid_sample(rgba[None, 3:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.cat([colour, alpha], dim=1)[0]


def _hsv(rgba: Tensor) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(rgba[:3].permute(1, 2, 0).numpy()), cv2.COLOR_RGB2HSV)


def own_hue(rgba: Tensor) -> float | None:
    """The hue in degrees that most of a picture [4, S, S] has; None where it has no colour, or several."""
    hsv, alpha = _hsv(rgba), rgba[3].numpy()
    visible = alpha > 0.5
    strong = visible & (hsv[..., 1] > _SATURATED) & (hsv[..., 2] > 0.2)
    if strong.sum() < _COLOURED_SHARE * max(int(visible.sum()), 1):
        return None
    hues = hsv[..., 0][strong]
    counts = np.bincount((hues // 10).astype(int) % 36, minlength=36)
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    hue = float(smooth.argmax() * 10 + 5)
    near = np.abs((hues - hue + 180) % 360 - 180) < _NEAR
    return hue if near.mean() > _COMMON_SHARE else None


def recoloured(rgba: Tensor, old: float, new: float) -> Tensor:
    """[4, S, S] with everything near one hue turned to another; alpha, light and all other colours stay."""
    hsv = _hsv(rgba)
    distance = (hsv[..., 0] - old + 180) % 360 - 180
    near = (np.abs(distance) < _NEAR * 1.5) & (hsv[..., 1] > 0.08)
    hsv[..., 0] = np.where(near, (new + distance * 0.5) % 360, hsv[..., 0])
    colour = torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)
    return torch.cat([colour.clamp(0, 1), rgba[3:]])


def without_colour(name: str) -> str:
    """A subject's name less a colour word in front: "red apple" -> "apple"."""
    first, _, rest = name.partition(" ")
    return rest if rest and first in HUES else name


def _depiction(styles: Sequence[Tensor], name: str, generator: Generator) -> tuple[Tensor, str]:
    """One picture of a subject and its words. styles: of the same name [4, S, S], the 3D one first."""
    is_flat = len(styles) > 1 and float(uniform(generator, 1)) < FLAT_SHARE
    rgba, words = styles[1 if is_flat else 0], name
    if float(uniform(generator, 1)) < RECOLOUR_SHARE:
        old = own_hue(rgba)
        others = [word for word, hue in HUES.items() if old is None or abs((hue - old + 180) % 360 - 180) > 40]
        word = others[pick(generator, len(others))]
        if old is not None:
            rgba, words = recoloured(rgba, old, HUES[word]), f"{word} {without_colour(name)}"
    if is_flat:
        words = FLAT_WORDS[pick(generator, len(FLAT_WORDS))].format(words)
    return moved(rgba, generator), words


def _of_subject(task: tuple[int, str, list[Bytes]], each: int, seed: int) -> tuple[Bytes, list[str]]:
    """All pictures of one subject, uint8, and their words. task: its number, its name, its styles [4, S, S] uint8."""
    row, name, drawn = task
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    styles = [torch.from_numpy(style).float() / 255 for style in drawn]
    made = [(styles[0], name)] + [_depiction(styles, name, generator) for _ in range(each - 1)]
    return np.stack([_bytes(picture) for picture, _ in made]), [words for _, words in made]


def _of_matter(row: int, size: int, each: int, seed: int) -> tuple[Bytes, list[str]]:
    """The same of one kind of matter."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 - 1 - row)
    made = [MATTER[row](generator, size) for _ in range(each)]
    return np.stack([_bytes(picture.clamp(0, 1)) for picture, _ in made]), [words for _, words in made]


def _bytes(picture: Tensor) -> Bytes:
    return (picture * 255).round().byte().numpy()


def depictions(data: IconSet, subjects: Sequence[str], each: int, seed: int = 6) -> Depictions:
    """`each` pictures of every subject, by slug, and as many of every kind of translucent matter that has a name.

    The first of each subject is its 3D picture as it was drawn.

    Raises:
        InputError: a subject has no 3D picture.
    """
    solid = data.of_style("3d").only(list(subjects))
    flat = {name: row for row, (name, style) in enumerate(zip(data.names, data.styles, strict=True)) if style == "flat"}
    drawn, others = icons_tensor(solid).numpy(), icons_tensor(data).numpy()
    tasks = [
        (row, slug.replace("-", " "), [drawn[row]] + ([others[flat[slug]]] if slug in flat else []))
        for row, slug in enumerate(subjects)
    ]
    made = in_parallel(partial(_of_subject, each=each, seed=seed), tasks)
    made += [_of_matter(row, drawn.shape[-1], each, seed) for row in range(len(MATTER))]
    return Depictions(
        torch.from_numpy(np.concatenate([rgba for rgba, _ in made])), tuple(text for _, words in made for text in words)
    )
