"""What decoding takes of a CPU's memory: every way in a process of its own, since a heap keeps what it once was.

`python -m tests.benchmarks.memory WAY SIDE PASSES [REFERENCE]` prints seconds, and MiB above what was in use before, of
one way: "reference", "float32" or "bfloat16". The limit is the library's own.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lib_layerdiffusion.networks import TransparentDecoder
from lib_layerdiffusion.transparency import LatentTransparency
from tests.benchmarks.reference import Reference
from tests.benchmarks.timing import Row, peak_memory

ROOT = Path(__file__).parents[2]
REFERENCE = "reference"
Decode = Callable[[torch.Tensor, torch.Tensor], object]


def decoder(way: str, passes: int, folder: str | None) -> Decode:
    """The decoding that a way stands for."""
    network = TransparentDecoder().eval().requires_grad_(requires_grad=False)
    if way != REFERENCE:
        pair = LatentTransparency(decoder=network.with_precision(getattr(torch, way)))
        return lambda pixels, latent: pair.decode(pixels, latent, passes)
    state = copy.deepcopy(network.state_dict())
    theirs = Reference(Path(folder or "")).decoder(state, torch.device("cpu"), torch.float32)
    if passes == 1:
        return theirs.estimate_single_pass
    return theirs.estimate_augmented


@torch.no_grad()
def main(way: str, side: str, passes: str, folder: str | None = None) -> None:
    """Measure one way, after a small picture has brought in what every size needs."""
    decode = decoder(way, int(passes), folder)

    def run(size: int) -> None:
        decode(torch.rand(1, 3, size, size), torch.randn(1, 4, size // 8, size // 8))

    run(64)
    began = time.perf_counter()
    taken = peak_memory(lambda: run(int(side)))
    print(time.perf_counter() - began, taken)


def groups(reference: Path | None) -> Iterator[list[Row]]:
    """One view at 1024 and at 2048 and, within the library's limit, at 4096."""
    ways = [*([REFERENCE] if reference else []), "float32", "bfloat16"]
    for side, passes, taken in ((1024, 1, ways), (2048, 1, ways), (4096, 1, ["bfloat16"])):
        found = [(way, *_measured(way, side, passes, reference)) for way in taken]
        first = found[0][1]
        name = f"peak memory of a process, {passes} {'view' if passes == 1 else 'views'}, {side}x{side}"
        yield [Row(name, way, seconds, seconds / first, memory) for way, seconds, memory in found]


def _measured(way: str, side: int, passes: int, reference: Path | None) -> tuple[float, float]:
    words = ["-m", "tests.benchmarks.memory", way, str(side), str(passes), *([str(reference)] if reference else [])]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
