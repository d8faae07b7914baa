"""One run after the other in a host, with mistakes, errors and interruptions between; plain pictures stay the same.

    python -m tests.hosts.forge.endurance 300      # on the fake host; prints what came of it as JSON

`test_forge_endurance.py` does fewer of them, on the fake host or in a real one.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_layerdiffusion.errors import LayerDiffusionError, MemoryShortageError, ModelError, WeightsError
from lib_layerdiffusion.methods import METHODS
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.transparency import LatentTransparency
from lib_layerdiffusion.weights import WeightStore
from tests.hosts.forge.hosts import LORA

BETWEEN = 5
"""Runs between two plain pictures; a real host, where each takes seconds, makes one at both ends."""
TRANSPARENT, FG_TO_BG, BG_TO_FG, TOGETHER = (row.label for row in METHODS.values() if row.family == "SD1.5")


class Failing:
    """Somebody's script, or the model, that goes wrong in the middle of sampling. spoil: changes or raises."""

    args_from = args_to = 0

    def __init__(self, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._spoil = spoil

    def process_before_every_sampling(self, p: Any, *_: Any, **__: Any) -> None:
        unet = p.sd_model.forge_objects.unet.clone()
        earlier = unet.model_options.get("sampler_post_cfg_function", [])
        unet.model_options["sampler_post_cfg_function"] = [*earlier, lambda args: self._spoil(args["denoised"])]
        p.sd_model.forge_objects.unet = unet


def no_numbers(denoised: torch.Tensor) -> torch.Tensor:
    return denoised * float("nan")


def no_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextmanager
def decoding_out_of_memory():
    """Decoding, which is ours, finds no memory."""
    own = LatentTransparency.decode
    LatentTransparency.decode = no_memory
    try:
        yield
    finally:
        LatentTransparency.decode = own


@contextmanager
def a_broken_layer_file():
    """The files as they are, but one value of the method's is NaN."""
    from lib_layerdiffusion.hosts.forge.models import model_folders
    from lib_layerdiffusion.hosts.forge.script import LayerDiffusionScript

    models, own = LayerDiffusionScript.models(), LayerDiffusionScript.models()._store
    with tempfile.TemporaryDirectory(prefix="layerdiffusion-endurance-") as folder:
        for path in model_folders()[0].glob("*.safetensors"):
            (Path(folder) / path.name).symlink_to(path.resolve())
        broken = Path(folder) / f"{METHODS[TRANSPARENT].weights}.safetensors"
        weights = load_file(broken)
        next(iter(weights.values())).view(-1)[-1] = float("nan")
        broken.unlink()
        save_file(weights, broken)
        models._store = WeightStore([Path(folder)])
        try:
            yield
        finally:
            models._store = own


def arguments(method: str, **values: Any) -> list[Any]:
    given = {"enabled": True, "method": method, "decode_passes": 1, **values}
    return [given.get(row.name) for row in FIELDS]


def picture(side: int, seed: int, *, alpha: bool = True) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    waves = [127 + 120 * np.sin(x / (5 + seed + i) + i) * np.cos(y / (9 - i)) for i in range(3)]
    disc = np.clip((side * 0.35 - np.hypot(x - side / 2, y - side / 2)) * 20, 0, 255)
    planes = np.stack([*waves, disc] if alpha else waves, axis=-1)
    return Image.fromarray(planes.astype(np.uint8))


@dataclass
class Kind:
    """A run: body and arguments of the script. error: what it has to end with. around: what holds while it runs."""

    name: str
    args: list[Any] | None
    body: dict[str, Any] = field(default_factory=dict)
    error: type[BaseException] | None = None
    around: Callable[[], Any] = nullcontext
    family: str = "sd15"
    modes: tuple[str, ...] = ("RGBA",)


def kinds_of(host: Any, dice: random.Random) -> list[Kind]:
    """Every kind of run once, with seeds, steps and pictures of the dice's."""
    side = host.side
    rgba, rgb = picture(side, dice.randint(1, 5)), picture(side, dice.randint(1, 5), alpha=False)
    half = {"img2img": True, "denoising_strength": 0.6}
    clear, three = arguments(TRANSPARENT), {"batch_size": 3}
    kinds = [
        Kind("plain with a LoRA", None, {"prompt": f"an apple {LORA}"}, modes=("RGB",)),
        Kind("transparent", clear),
        Kind("transparent with a LoRA", clear, {"prompt": f"an apple {LORA}"}),
        Kind("a weight and an early stop", arguments(TRANSPARENT, weight=dice.random() * 2, stop_at=dice.random())),
        Kind("three frames", arguments(TOGETHER), three, modes=("RGBA", "RGB", "RGB")),
        Kind("foreground to background", arguments(FG_TO_BG, foreground=np.asarray(rgba)), {"batch_size": 2}, modes=()),
        Kind("background to foreground", arguments(BG_TO_FG, background=np.asarray(rgb)), {"batch_size": 2}, modes=()),
        Kind("hires fix, latent", clear, {"enable_hr": True, "hr_upscaler": "Latent"}),
        Kind("hires fix, Lanczos", clear, {"enable_hr": True, "hr_upscaler": "Lanczos"}),
        Kind("img2img", clear, {**half, "init_images": [rgba]}),
        Kind("plain img2img", None, {**half, "init_images": [rgb]}, modes=("RGB",)),
        Kind("interrupted", clear, {"steps": 4, "interrupt_at": dice.randint(0, 3)}, modes=()),
        Kind("interrupted frames", arguments(TOGETHER), {**three, "steps": 4, "interrupt_at": 1}, modes=()),
        Kind("no such method", arguments("glass"), error=LayerDiffusionError),
        Kind("a picture is missing", arguments(FG_TO_BG), error=LayerDiffusionError),
        Kind("a value out of range", arguments(TRANSPARENT, weight=9), error=LayerDiffusionError),
        Kind("another family's method", arguments(_xl_labels()[0]), error=LayerDiffusionError),
        Kind("NaN in the layer file", clear, error=WeightsError, around=a_broken_layer_file),
        Kind("NaN while sampling", clear, {"others": [Failing(no_numbers)]}, error=ModelError),
        Kind("no memory while sampling", clear, {"others": [Failing(no_memory)]}, error=torch.OutOfMemoryError),
        Kind("no memory while decoding", clear, error=MemoryShortageError, around=decoding_out_of_memory),
    ]
    return kinds + (_second_checkpoint(host) if host.is_real else _other_family(host, dice))


def _xl_labels() -> list[str]:
    return [row.label for row in METHODS.values() if row.family == "SDXL"]


def _second_checkpoint(host: Any) -> list[Kind]:
    body = {"override_settings": {"sd_model_checkpoint": host.second_checkpoint()}}
    return [Kind("another checkpoint", arguments(TRANSPARENT), body)]


def _other_family(host: Any, dice: random.Random) -> list[Kind]:
    pictures = {name: np.asarray(picture(host.side, dice.randint(1, 5))) for name in ("foreground", "background")}
    pictures["blended"] = np.asarray(picture(host.side, 3, alpha=False))
    return [
        Kind(row.name, arguments(row.label, **pictures), family="sdxl", modes=())
        for row in METHODS.values()
        if row.family == "SDXL"
    ]


@dataclass
class Endured:
    """tried: runs. wrong: what was not as it has to be. memory: MiB after each plain picture."""

    tried: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def slope(self) -> float:
        """KiB a run over the later two thirds."""
        later = self.memory[len(self.memory) // 3 :]
        if len(later) < 3:
            return float("nan")
        return float(np.polyfit(np.arange(len(later)) * BETWEEN, later, 1)[0] * 1024)


def endure(host: Any, count: int, skip: int = 0) -> Endured:
    """Runs of all kinds in an order that is always the same, after the first `skip`; plain pictures between them."""
    dice, outcome = random.Random(0), Endured()
    order = _order(host, dice)
    host.use("sd15")
    first = host.run(None)
    for number, kind in enumerate(itertools.islice(order, skip + count)):
        if number < skip:
            continue
        outcome.tried += 1
        outcome.kinds[kind.name] = outcome.kinds.get(kind.name, 0) + 1
        problems = _problems(host, kind, dice)
        if (outcome.tried % BETWEEN == 0 and not host.is_real) or outcome.tried == count:
            host.use("sd15")
            if not host.run(None).same_as(first):
                problems.append("the plain picture after it differs")
            gc.collect()
            outcome.memory.append(resident())
        outcome.wrong += [f"{number} {kind.name}: {problem}" for problem in problems]
        if host.is_real:  # minutes
            print(f"{number} {kind.name}: {'; '.join(problems) or 'as it has to be'}", flush=True)
    return outcome


def _order(host: Any, dice: random.Random) -> Iterator[Kind]:
    while True:
        kinds = kinds_of(host, dice)
        dice.shuffle(kinds)
        yield from kinds


def _problems(host: Any, kind: Kind, dice: random.Random) -> list[str]:
    host.use(kind.family)
    body = {"steps": dice.randint(2, 4), "seed": dice.randrange(1000), **kind.body}
    with kind.around():
        result = host.run(kind.args, **body)
    if kind.error is not None:
        return [] if isinstance(result.error, kind.error) else [f"ended with {result.error!r}"]
    if result.error is not None:
        return [f"ended with {type(result.error).__name__}: {result.error}"]
    modes = tuple(image.mode for image in result.images[: len(kind.modes)])
    return [*result.reports, *([] if modes == kind.modes else [f"gave {modes}"])]


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> int:
    from tests.hosts.forge.conftest import _play

    _play("forge")
    from tests.hosts.forge.hosts import FakeForge

    with tempfile.TemporaryDirectory(prefix="layerdiffusion-endurance-") as folder:
        outcome = endure(FakeForge(Path(folder)), int(sys.argv[1]))
    print(json.dumps({"tried": outcome.tried, "wrong": outcome.wrong, "slope": outcome.slope, "kinds": outcome.kinds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
