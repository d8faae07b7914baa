"""A training that is killed, of a real stage on a small set of pictures."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from tests.faults.found import ROOT, Found, killed

STEPS = 40
_SCRIPT = """
import sys
from pathlib import Path
from tests.faults.training import loop
made = loop(Path(sys.argv[1]))
print(flush=True)
made.run(lambda line: None)
"""


def pictures(folder: Path) -> Path:
    """A small set of pictures in the form of the recipe's own."""
    from lib_layerdiffusion.training import data

    dice = np.random.default_rng(0)
    rgba = [dice.integers(0, 256, (32, 32, 4), np.uint8) for _ in range(6)]
    data._write(folder, rgba, [{"name": str(n), "style": "flat", "held_out": n > 3} for n in range(6)])
    return folder


def loop(folder: Path):
    """The VAE's stage, with a checkpoint after each step."""
    from diffusers import AutoencoderKL

    from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop
    from lib_layerdiffusion.training.vae import VaeStage

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    stage = VaeStage(pictures(folder.with_name(f"{folder.name}-data")), vae=vae)
    settings = LoopSettings(folder, steps=STEPS, batch=2, threads=1, bf16=False, checkpoint_seconds=0.0)
    return TrainingLoop(stage, settings)


def killed_training(folder: Path, scale: float) -> Found:
    """kill -9 of a training: at a random moment, gone on with until it is done; every weight is the unharmed one's."""
    found, dice = Found(), random.Random(8)
    for number in range(max(1, int(3 * scale))):
        place, whole = folder / str(number), folder / f"{number}-whole"
        loop(whole).run(lambda line: None)
        for _ in range(5):
            found.tried += 1
            before = _step(place)
            killed(_SCRIPT, place, 0.2 + dice.random() * 2)
            found.lost += _step(place) < before
        subprocess.run([sys.executable, "-c", _SCRIPT, str(place)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        one, other = (_state(path) for path in (place, whole))
        found.lost += one["step"] != STEPS
        for part in ("parameters", "average"):
            found.wrong += any(not torch.equal(value, other[part][key]) for key, value in one[part].items())
        found.wrong += any(path.suffix == ".part" for path in place.iterdir())
    return found


def _state(place: Path):
    return torch.load(place / "checkpoint.pt", weights_only=True)


def _step(place: Path) -> int:
    """0 where there is none yet; one that cannot be read raises."""
    return _state(place)["step"] if (place / "checkpoint.pt").exists() else 0
