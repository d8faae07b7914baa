"""Modules of `modules_forge` that these hosts have and the others do not."""

import sys
from types import ModuleType

from fakehost import condition, kind


def add_modules():
    made = {
        "forge_sampler": {"cond_from_a1111_to_patched_ldm_weighted": condition.compile_weighted_conditions},
        "unet_patcher": {"UnetPatcher": kind.unet_patcher},
    }
    import modules_forge

    for name, content in made.items():
        module = ModuleType(f"modules_forge.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
        setattr(modules_forge, name, module)


def without_canvas():
    """gradio's own picture boxes, and the menu of checkpoints among the quick settings."""
    kind.without_module("modules_forge.forge_canvas.canvas")
    kind.without_module("modules_forge.main_entry")


def old_prompts(self, prompts, width=None, height=None):
    list.__init__(self, prompts)
    self.width, self.height = width, height
