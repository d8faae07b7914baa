"""What each part of the transparency loss is worth: D alone goes on from an exported family, with parts left out.

python -m tests.benchmarks.bench_losses DATA [steps, default 200] [family, default models/demo]

All variants start from the same weights and see the same pictures; DATA is what `layerdiffusion train data` built.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop, averaged
from lib_layerdiffusion.training.losses import LossWeights, soft_error
from lib_layerdiffusion.training.measures import composite_psnr
from lib_layerdiffusion.training.synthesis import translucent
from lib_layerdiffusion.training.vae import icons_tensor

SHIPPED = LossWeights()
VARIANTS = {
    "as shipped": SHIPPED,
    "without composites in decibels": replace(SHIPPED, blend=0.0),
    "without soft regions": replace(SHIPPED, soft=0.0),
    "without edges": replace(SHIPPED, edges=0.0),
    "without adversary": replace(SHIPPED, adversary=0.0),
    "with features": replace(SHIPPED, features=0.1),
}


@torch.no_grad()
def figures(loop: TrainingLoop, data: Path) -> str:
    """Composites and alpha of 64 held-out icons, soft regions of 24 procedural pictures, with averaged weights."""
    stage = loop.stage
    icons = icons_tensor(IconSet.load(data, held_out=True))
    icons = icons[:: max(1, len(icons) // 64)][:64].float() / 255
    soft = translucent(torch.Generator().manual_seed(13), icons.shape[-1], 24)
    with averaged(stage.modules, loop.average):
        found, found_soft = (stage.decode(stage.encode(rgba)[0])[0].clamp(0, 1) for rgba in (icons, soft))
    alpha = float((found[:, 3:] - icons[:, 3:]).abs().mean())
    partly = float(soft_error(found_soft[:, 3:], soft[:, 3:]))
    return f"composites {composite_psnr(found, icons):.2f} dB, alpha {alpha:.4f}, soft regions {partly:.4f}"


def compare(data: Path, steps: int, family: Path) -> None:
    """Train and measure every variant."""
    for name, weights in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            stage = Workshop(data, Path(folder), start=family).stage("decoder", Path(folder))
            stage.weights = weights
            settings = LoopSettings(
                Path(folder), steps=steps, batch=8, learning_rate=5e-4, warmup=20, ema_decay=0.98, threads=1
            )
            loop = TrainingLoop(stage, settings)
            if name == "as shipped":
                print(f"{'before':32} {figures(loop, data)}", flush=True)
            loop.run(lambda line: None)
            print(f"{name:32} {figures(loop, data)}", flush=True)


if __name__ == "__main__":
    _, data_folder, *options = sys.argv
    count = int(options[0]) if options else 200
    compare(Path(data_folder), count, Path(options[1] if len(options) > 1 else "models/demo"))
