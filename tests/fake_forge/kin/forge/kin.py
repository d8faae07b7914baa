"""Forge dfcdbab."""

from fakehost import kind
from fakehost.patching import NamingPatcher


def prepare():
    def add_lora(unet, name, patches, strength):
        unet.add_patches(filename=name, patches=patches, strength_patch=strength)

    kind.play("forge", NamingPatcher, add_lora=add_lora)
    kind.of_backend()
