"""Figures of the methods with conditions and of those that make several layers, through the engine."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.evaluate_family import Family, as_pictures, shown
from lib_layerdiffusion.training.measures import alpha_error, over, psnr
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background
from lib_layerdiffusion.training.text import GROUND
from lib_layerdiffusion.training.vae import icons_tensor

SEVERAL = ("everything", "fg-to-bg", "bg-to-fg")
"""Methods that make several layers of one picture."""


class Scenes:
    """Trained subjects in new scenes: true foregrounds, backgrounds and blended pictures, and words for them."""

    def __init__(self, family: Family, data: Path, count: int) -> None:
        subjects = list(family.subjects)
        self.subjects = subjects[:: max(1, len(subjects) // count)][:count]
        known = IconSet.load(data, style="3d").only([name.replace(" ", "-") for name in self.subjects])
        self.foreground = icons_tensor(known).float() / 255
        self.kinds = [list(BACKGROUNDS)[row % len(BACKGROUNDS)] for row in range(len(self.subjects))]
        generator = torch.Generator().manual_seed(21)
        size = self.foreground.shape[-1]
        self.background = torch.stack([background(generator, size, kind) for kind in self.kinds])
        self.blended = over(self.foreground, self.background)

    def prompts(self, row: int) -> dict[str, str]:
        """What each layer of a picture is asked for."""
        subject, scene = self.subjects[row], GROUND.format(self.kinds[row])
        return {"foreground": subject, "background": scene, "blended": f"{subject}, {scene}"}

    def run(self, family: Family, method: str, prompt: str, given: tuple[str, ...], count: int | None = None) -> Tensor:
        """The one layer that a method makes of the given layers, [N, C, H, W]. prompt: whose words are the prompt."""
        pictures = {name: as_pictures(getattr(self, name)) for name in given}
        made: list[Tensor] = []
        for row in shown(range(count or len(self.subjects)), method):
            conditions = {name: pictures[name][row] for name in given}
            (layer,) = family.generate(self.prompts(row)[prompt], method, seed=row, **conditions).values()
            made.append(layer)
        return torch.cat(made)


def layer_figures(family: Family, data: Path, count: int = 48, few: int = 16) -> dict[str, float]:
    """What the methods with conditions keep and find, on trained subjects in new scenes."""
    scenes = Scenes(family, data, count)
    figures: dict[str, float] = {}
    if family.has("bg-to-blend"):
        made = scenes.run(family, "bg-to-blend", "blended", ("background",))
        # A subject stands where its own picture does, or mirrored; all else, less a few pixels around it, has to stay.
        alpha = scenes.foreground[:, 3:]
        subject = torch.maximum(alpha, alpha.flip(-1)).gt(0.02).float()
        outside = 1 - F.max_pool2d(subject, 13, stride=1, padding=6)
        figures["bg-to-blend: background outside the subject, PSNR dB"] = psnr(made, scenes.background, outside)
    if family.has("fg-to-blend"):
        made = scenes.run(family, "fg-to-blend", "blended", ("foreground",))
        inside = (scenes.foreground[:, 3:] > 0.99).float()
        figures["fg-to-blend: foreground inside, PSNR dB"] = psnr(made, scenes.blended, inside)
    if family.has("bg-blend-to-fg"):
        made = scenes.run(family, "bg-blend-to-fg", "foreground", ("background", "blended"))
        figures["bg-blend-to-fg: alpha MAE"] = alpha_error(made, scenes.foreground)
    if family.has("fg-blend-to-bg"):
        made = scenes.run(family, "fg-blend-to-bg", "background", ("foreground", "blended"))
        figures["fg-blend-to-bg: background, PSNR dB"] = psnr(made, scenes.background)
    return figures | several_figures(family, Scenes(family, data, few))


def several_figures(family: Family, scenes: Scenes) -> dict[str, float]:
    """PSNR of foreground over background, made or given, against the blended picture of the same run."""
    figures: dict[str, float] = {}
    for method in SEVERAL:
        if not family.has(method):
            continue
        found: list[float] = []
        for row in shown(range(len(scenes.subjects)), method):
            true = {name: getattr(scenes, name)[row : row + 1] for name in ("foreground", "background")}
            wanted = {"fg-to-bg": "foreground", "bg-to-fg": "background"}.get(method)
            given = {} if wanted is None else {wanted: as_pictures(true[wanted])[0]}
            words = scenes.prompts(row)
            layers = {"layer_prompts": {name: text for name, text in words.items() if name not in given}}
            made = family.generate("", method, seed=row, **given, **layers)
            parts = {**true, **made}
            found.append(psnr(over(parts["foreground"], parts["background"]), made["blended"]))
        figures[f"{method}: layers against blended, PSNR dB"] = sum(found) / len(found)
    return figures
