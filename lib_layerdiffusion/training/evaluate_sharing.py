"""Figures of the attention-sharing methods: do the layers that one run makes add up to its blended picture?"""

from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from lib_layerdiffusion.networks import AttentionSharing, SharingRun
from lib_layerdiffusion.training.base import sample_latents
from lib_layerdiffusion.training.evaluate_family import Family, over, psnr
from lib_layerdiffusion.training.sharing import SHARING_RECIPES, SharingRecipe, attach

NAMES = {"sd15_joint": "everything", "sd15_fg2bg": "fg-to-bg", "sd15_bg2fg": "bg-to-fg"}
"""Recipes that make several layers -> the method's short name."""


def frame_prompts(recipe: SharingRecipe, subject: str, scene: str) -> list[str]:
    """What each frame of a picture is asked for."""
    words = {"adjusted": subject, "bg": f"{scene} background", "blend": f"{subject}, {scene} background"}
    return [words[frame] for frame in recipe.frames]


@torch.no_grad()
def shared_frames(
    family: Family, recipe: SharingRecipe, subjects: Sequence[str], scenes: Sequence[str], given: Tensor | None
) -> dict[str, Tensor]:
    """VAE-scale latents [N, 4, h, w] of every frame, N pictures; `given` are the condition pictures [N, 3, H, W]."""
    sharing = AttentionSharing.from_state_dict(load_file(family.folder / "layers" / f"{recipe.file}.safetensors"))
    unet, run = family.unet(), SharingRun()
    attach(unet, sharing.float().eval(), run)
    found: list[Tensor] = []
    # A condition picture serves a whole batch, so with one there is a run for each picture.
    step = 1 if recipe.condition else len(subjects)
    for start in range(0, len(subjects), step):
        pairs = zip(subjects[start : start + step], scenes[start : start + step], strict=True)
        prompts = [words for subject, scene in pairs for words in frame_prompts(recipe, subject, scene)]
        if given is not None:
            run.signals = sharing.signals(given[start : start + 1])
        found.append(sample_latents(unet, family.text, prompts, seed=start) / family.scale)
    frames = torch.cat(found).unflatten(0, (-1, len(recipe.frames)))
    return {name: frames[:, index] for index, name in enumerate(recipe.frames)}


def sharing_figures(
    family: Family, subjects: Sequence[str], scenes: Sequence[str], rgba: Tensor, backgrounds: Tensor
) -> dict[str, float]:
    """PSNR of foreground over background, made or given, against the blended picture of the same run.

    rgba: true foregrounds [N, 4, H, W], backgrounds: [N, 3, H, W]; the conditions of the methods that take one.
    """
    shown = over(rgba, torch.tensor(0.5))
    figures: dict[str, float] = {}
    for key, name in NAMES.items():
        recipe = SHARING_RECIPES[key]
        if not (family.folder / "layers" / f"{recipe.file}.safetensors").exists():
            continue
        given = {"fg": shown, "bg": backgrounds, None: None}[recipe.condition]
        made = shared_frames(family, recipe, subjects, scenes, given)
        foreground = family.decode(made["adjusted"]) if "adjusted" in made else rgba
        background = family.pixels(made["bg"]) if "bg" in made else backgrounds
        figures[f"{name}: layers against blended, PSNR dB"] = psnr(
            over(foreground, background), family.pixels(made["blend"])
        )
    return figures
