"""LoRAs named in prompts as <lora:name:strength>; their weights stand in `shared.loras`."""

import re

from fakehost import kind

from modules import shared

_TAG = re.compile(r"<lora:([^:>]+):([^>]+)>")


def parse_prompt(prompt):
    return _TAG.sub("", prompt), _TAG.findall(prompt)


def parse_prompts(prompts):
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1]


def activate(p, tags):
    objects = p.sd_model.forge_objects_original.shallow_copy()
    if tags == getattr(p.sd_model, "active_loras", []):
        return
    p.sd_model.active_loras = tags
    if tags:
        objects.unet = objects.unet.clone()
        for name, strength in tags:
            kind.add_lora(objects.unet, name, shared.loras[name], float(strength))
    p.sd_model.forge_objects_after_applying_lora = objects
