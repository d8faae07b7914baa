"""AND splits a prompt into weighted parts; every part of every prompt becomes a row of the conditioning."""

import re

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"^(.*?)(?::\s*([-+.\d]+))?\s*$", re.DOTALL)


class SdConditioning(list):
    def __init__(self, prompts, width=None, height=None, distilled_cfg_scale=None):
        super().__init__(prompts)
        self.width, self.height = width, height


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    texts, composition = [], []
    for prompt in prompts:
        parts = [_WEIGHT.match(part).groups() for part in _AND.split(prompt)]
        composition.append([(len(texts) + i, float(weight or 1)) for i, (_, weight) in enumerate(parts)])
        texts += [text.strip() for text, _ in parts]
    return composition, model.get_learned_conditioning(texts)


def reconstruct_multicond_batch(conditioning, step):
    return conditioning
