"""Other people's scripts, reduced to what they do with pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image


class Postprocessing:
    """A script that changes each picture before the host lays an init picture over it (upscalers, face tools)."""

    args_from = args_to = 0

    def __init__(self, change: Callable[[Image.Image], Image.Image]) -> None:
        self.change = change

    def postprocess_image(self, _p: Any, pp: Any) -> None:
        pp.image = self.change(pp.image)


class Replacing:
    """A script that puts another picture in the place of each finished one."""

    args_from = args_to = 0

    def postprocess_image_after_composite(self, _p: Any, pp: Any) -> None:
        pp.image = pp.image.convert("RGB")


class Raising:
    """A script that fails in every hook."""

    args_from = args_to = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"no {name} today")

        return fail


class Wildcards:
    """A script that writes each item's prompt anew."""

    args_from = args_to = 0

    def process(self, p: Any) -> None:
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
