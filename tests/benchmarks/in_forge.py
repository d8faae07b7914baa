"""python -m tests.benchmarks.in_forge FORGE [--side 512] [--steps 3] [--clock cpu]

In a real Forge, with the Python that it runs on (it has to have pytest): what a step takes with a method of attention
sharing beside a plain one, and what pictures of a method of weight offsets merge and read. FORGE is a checkout with
`random_sd15.safetensors` and layer files, as `pytest --forge-root` wants it. One process of it takes 7 GB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.benchmarks.__main__ import CLOCKS
from tests.benchmarks.timing import Row, printed
from tests.hosts.forge.host_files import unet_shapes
from tests.hosts.forge.hosts import RealForge, arguments

SHARED = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
OFFSETS = "(SDXL) Only Generate Transparent Image (Attention Injection)"
RANK = 256
"""Of the published files."""
SMALL, SHORT = 128, 4
"""Side and steps of pictures of which only what surrounds their steps counts."""


@dataclass
class Watched:
    """Seconds of every call of a function while it is watched."""

    clock: Callable[[], float]
    calls: list[float] = field(default_factory=list)

    @contextmanager
    def on(self, owner: Any, name: str) -> Iterator[None]:
        """Watch `owner.name`."""
        own = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            began = self.clock()
            try:
                return own(*given, **named)
            finally:
                self.calls.append(self.clock() - began)

        setattr(owner, name, call)
        try:
            yield
        finally:
            setattr(owner, name, own)


def checked(result: Any) -> None:
    """Stop where a run failed: its figures would be of nothing."""
    if result.error is not None or result.reports:
        raise SystemExit(f"The run failed: {result.error or result.reports}")


def steps(host: Any, side: int, count: int, clock: Callable[[], float]) -> Iterator[Row]:
    """A step after the first one, which folds or warms up, plain and with a method."""
    from modules import sd_samplers_cfg_denoiser

    medians: dict[str, float] = {}
    for name, given in (("plain", None), ("transparent, SD1.5", arguments(SHARED, decode_passes=1))):
        watched = Watched(clock)
        with watched.on(sd_samplers_cfg_denoiser.CFGDenoiser, "forward"):
            checked(host.run(given, width=side, height=side, steps=count))
        medians[name] = statistics.median(watched.calls[1:])
        yield Row(f"a step, {side}x{side}, guidance", name, medians[name], medians[name] / medians["plain"])


def offsets(host: Any, folder: Path, clock: Callable[[], float]) -> Iterator[Row]:
    """Merging and reading for pictures that follow each other."""
    from backend.patcher import lora

    from lib_layerdiffusion.weights import reading

    _pretend_sdxl(host, folder)
    half, seconds = {"stop_at": 0.5}, list[float]()
    for name, values in (("first", {}), ("the same again", {}), ("Stop At 0.5", half), ("after a Stop At", half)):
        merged, refreshed, read = (Watched(clock) for _ in range(3))
        with ExitStack() as stack:
            stack.enter_context(merged.on(lora, "merge_lora_to_weight"))
            stack.enter_context(refreshed.on(lora.LoraLoader, "refresh"))
            for reader in ("load_file", "load"):
                stack.enter_context(read.on(reading, reader))
            checked(host.run(arguments(OFFSETS, decode_passes=1, **values), width=SMALL, height=SMALL, steps=SHORT))
        way = f"{name}: {len(merged.calls)} merged, {len(read.calls)} files read"
        seconds.append(sum(refreshed.calls))
        yield Row("weights of a method of weight offsets, merging", way, seconds[-1], seconds[-1] / seconds[0])


def _pretend_sdxl(host: Any, folder: Path) -> None:
    """An SD1.5 checkpoint passes for SDXL, with a file of the published rank for all of its attention weights."""
    from lib_layerdiffusion.hosts.forge import family
    from lib_layerdiffusion.hosts.forge.script import LayerDiffusionScript
    from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family
    from lib_layerdiffusion.unet.injection import KEY_PREFIX
    from lib_layerdiffusion.weights import WeightStore

    models, tensors = host.forge / "models", {}
    for key, shape in unet_shapes(models / "Stable-diffusion" / "random_sd15.safetensors").items():
        if ".attn" in key and key.endswith(".weight") and len(shape) == 2:
            tensors[f"{KEY_PREFIX}{key}::lora::0"] = 0.01 * torch.randn(shape[0], RANK)
            tensors[f"{KEY_PREFIX}{key}::lora::1"] = 0.01 * torch.randn(RANK, shape[1])
    save_file(tensors, folder / f"{METHODS[OFFSETS].weights}.safetensors")
    files = VAE_FILES[Family.SDXL]
    for name in (files.encoder, files.decoder):
        (folder / f"{name}.safetensors").symlink_to(models / "layer_model" / f"{name}.safetensors")
    family.family_of = lambda _: Family.SDXL
    vars(LayerDiffusionScript.models())["_store"] = WeightStore([folder])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.in_forge", description=__doc__)
    parser.add_argument("forge", type=Path)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="cpu")
    given = parser.parse_args(argv)
    if given.steps < 2:
        parser.error("--steps must be 2 or more: the first step is not counted")
    clock = CLOCKS[given.clock]
    with tempfile.TemporaryDirectory() as name:
        (files := Path(name) / "files").mkdir()
        host = RealForge(given.forge.resolve(), Path(name) / "host")
        host.use("sd15")
        print(printed(list(steps(host, given.side, given.steps, clock))), flush=True)
        print(printed(list(offsets(host, files, clock))), flush=True)
    os._exit(0)  # hosts leave threads behind


if __name__ == "__main__":
    main()
