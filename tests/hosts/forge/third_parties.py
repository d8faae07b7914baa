"""Other people's scripts, reduced to what they do with pictures."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from PIL import Image


class Postprocessing:
    """A script that changes each picture before the host lays an init picture over it (upscalers, face tools)."""

    args_from = args_to = 0

    def __init__(self, change: Callable[[Image.Image], Image.Image]) -> None:
        self.change = change

    def postprocess_image(self, _p: Any, pp: Any, *_: Any) -> None:
        pp.image = self.change(pp.image)


class Replacing:
    """A script that puts another picture in the place of each finished one."""

    args_from = args_to = 0

    def postprocess_image_after_composite(self, _p: Any, pp: Any, *_: Any) -> None:
        pp.image = pp.image.convert("RGB")


class Raising:
    """A script that fails in every hook."""

    args_from = args_to = 0


def _failing(hook: str) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"no {hook} today")

    return fail


for _hook in (
    "before_process",
    "process",
    "before_process_init_images",
    "process_before_every_sampling",
    "post_sample",
    "postprocess_batch",
    "postprocess_image",
    "postprocess_maskoverlay",
    "postprocess_image_after_composite",
    "postprocess",
):
    setattr(Raising, _hook, _failing(_hook))


class Wildcards:
    """A script that writes each item's prompt anew."""

    args_from = args_to = 0

    def process(self, p: Any, *_: Any) -> None:
        p.all_prompts = [f"{prompt} {number}" for number, prompt in enumerate(p.all_prompts)]


class PromptMatrix:
    """The host's Prompt matrix as it lays pictures out: a grid of one picture for each prompt."""

    def title(self) -> str:
        return "Prompt matrix"

    def run(self, p: Any) -> Any:
        from modules import processing

        prompts = p.prompt.split("|")
        p.n_iter = -(-len(prompts) // p.batch_size)
        p.prompt, p.seed = prompts, [p.seed] * len(prompts)
        processed = processing.process_images(p)
        if len(processed.images) != len(prompts):
            raise AssertionError(f"{len(processed.images)} pictures for {len(prompts)} prompts")
        size = processed.images[0].size
        processed.images.insert(0, Image.new("RGB", (size[0] * len(prompts), size[1])))
        processed.infotexts.insert(0, processed.infotexts[0])
        return processed


class Plot:
    """The host's X/Y/Z plot: the first picture of each cell, a grid in front of all."""

    def __init__(self, apply: Callable[[Any, Any], None], values: list[Any]) -> None:
        self.apply, self.values = apply, values

    def title(self) -> str:
        return "X/Y/Z plot"

    def run(self, p: Any) -> Any:
        from copy import copy

        from modules import processing

        whole, images = None, []
        for value in self.values:
            cell = copy(p)
            self.apply(cell, value)
            processed = processing.process_images(cell)
            whole = whole or copy(processed)
            images.append(processed.images[0])
        whole.images = [Image.new("RGB", images[0].size), *images]
        return whole


class Joining:
    """A script of a title that asks for one picture."""

    def __init__(self, title: str) -> None:
        self._title = title

    def title(self) -> str:
        return self._title

    def run(self, p: Any) -> Any:
        from modules import processing

        return processing.process_images(p)


def _attention_module() -> str:
    return "backend.attention" if find_spec("backend") else "fakehost.attention"


class Adapter:
    """IP-Adapter as far as the UNet goes: an attention of its own in every cross-attention, by the order of rows."""

    args_from = args_to = 0

    def process_before_every_sampling(self, p: Any, *_: Any, **__: Any) -> None:
        unet = p.sd_model.forge_objects.unet.clone()
        blocks = [("input", number) for number in (1, 2, 4, 5, 7, 8)] + [("output", n) for n in range(3, 12)]
        for name, number in [*blocks, ("middle", 0)]:
            unet.set_model_attn2_replace(self._attend, name, number)
        p.sd_model.forge_objects.unet = unet

    @staticmethod
    def _attend(q: Any, k: Any, v: Any, extra: dict[str, Any]) -> Any:
        attention_function = import_module(_attention_module()).attention_function
        rows = len(q) // len(extra["cond_or_uncond"])
        out = attention_function(q, k, v, extra["n_heads"]).clone()
        for part, mark in enumerate(extra["cond_or_uncond"]):
            out[part * rows : (part + 1) * rows] += 0.1 * (1 - mark)
        return out
