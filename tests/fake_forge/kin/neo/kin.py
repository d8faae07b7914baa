"""Forge Neo 2.26: Forge's `backend`, rewritten in places."""

import sys
from types import ModuleType

from fakehost import kind, memory_management
from fakehost.patching import AdapterBase, AskingPatcher, LowRank

ADAPTERS = "modules_forge.packages.comfy.weight_adapter"


class NeoPatcher(AskingPatcher):
    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0, *, filename=None, online_mode=None):
        return super().add_patches(patches, strength_patch, strength_model, beside=bool(online_mode))


def prepare():
    def add_lora(unet, name, patches, strength):
        unet.add_patches({key: LowRank(parts) for key, (_, parts) in patches.items()}, strength)

    kind.play("neo", NeoPatcher, add_lora=add_lora, weak=True)
    kind.of_backend()
    _rewrite()


def _sized(width, height):
    """Multiples of 64, unless the model says otherwise; tests of other things have it say so."""
    from modules import shared

    own = getattr(shared.sd_model, "fix_dimensions", None)
    return (width, height) if own is None else own(width, height)


def multiples_of_64(width, height):
    """What the host does where its model has no say."""
    return tuple(max((side + 32) // 64 * 64, 64) for side in (width, height))


def _rewrite():
    from modules import processing, prompt_parser, shared

    processing.sized = _sized

    own_load = memory_management.load_models_gpu
    memory_management.load_models_gpu = lambda models, memory_required=0: own_load(models, memory_required)
    own = prompt_parser.get_multicond_learned_conditioning

    def learn(model, prompts, steps, hires_steps=None):
        return own(model, prompts, steps, hires_steps)

    prompt_parser.get_multicond_learned_conditioning = learn
    del shared.opts.use_old_scheduling
    kind.without_module("modules.stealth_infotext")
    package = ""
    for part in ADAPTERS.split(".")[1:]:
        package = f"{package or 'modules_forge'}.{part}"
        sys.modules[package] = ModuleType(package)
    sys.modules[ADAPTERS].WeightAdapterBase = AdapterBase
