"""reForge: `ldm_patched.*` with adapter objects; its VAE takes the mean, its API leaves extra images out."""

import sys
from types import ModuleType

from fakehost import kind
from fakehost.patching import AdapterBase, AskingPatcher, LowRank


class ReforgePatcher(AskingPatcher):
    strict = False


def prepare():
    def add_lora(unet, name, patches, strength):
        unet.add_patches({key: LowRank(parts) for key, (_, parts) in patches.items()}, strength)

    kind.play("reforge", ReforgePatcher, add_lora=add_lora, weak=True, draws=False)
    kind.of_ldm_patched()
    from ldm_patched.modules import names
    from modules.api import api

    module = ModuleType("ldm_patched.modules.weight_adapter")
    module.WeightAdapterBase = AdapterBase
    sys.modules[module.__name__] = module
    names.add_modules()
    names.without_canvas()
    kind.without_options(names.old_prompts)
    api.Api = type("Api", (), {"text2imgapi": lambda self, processed: processed.images})
