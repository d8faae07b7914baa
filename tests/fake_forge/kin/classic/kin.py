"""Forge classic: `ldm_patched.*` with tuples, fewer hooks and older signatures."""

from fakehost import kind
from fakehost.patching import TuplePatcher


def prepare():
    def add_lora(unet, name, patches, strength):
        unet.add_patches(patches, strength)

    kind.play("classic", TuplePatcher, add_lora=add_lora)
    kind.of_ldm_patched()
    from ldm_patched.modules import names
    from modules import images, script_callbacks, shared

    shared.opts.fake_grid_mode = "RGB"
    names.add_modules()
    names.without_canvas()
    kind.without_options(names.old_prompts)
    kind.without_module("modules.stealth_infotext")
    kind.without_hook("before_process_init_images")
    script_callbacks.add_callback = lambda callbacks, fun: callbacks.append(fun)
    own = images.resize_image
    images.resize_image = lambda mode, image, width, height, upscaler_name=None: own(mode, image, width, height)
