"""A family of random weights, exported, as training goes on from one."""

import torch

from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop

SUBJECTS = ("fox", "owl")
METHODS = ("transparent_attn", "bg2ble", "sd15_bg2fg")


def save(shop, name, spread=0.0):
    """Write a stage's checkpoint without training it; with a spread its weights are far from a fresh stage's."""
    folder = shop.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    loop = TrainingLoop(shop.stage(name, folder), LoopSettings(folder, steps=1, threads=1))
    for value in loop.average.values():
        value.add_(torch.randn_like(value) * spread)
    loop.save()


def files(folder):
    from safetensors.torch import load_file

    return {str(path.relative_to(folder)): load_file(path) for path in folder.rglob("*.safetensors")}


def pairs(one, other):
    return zip(one.state_dict().values(), other.state_dict().values(), strict=True)
