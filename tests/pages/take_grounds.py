"""Takes the README's first picture: `python -m tests.pages.take_grounds docs/images/grounds.png`.

Subjects of the bundled family, generated as the command does, each on a checkerboard, at dusk and on paper.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.images import to_uint8
from lib_layerdiffusion.images.compose import place, scaled

SIDE, MARGIN = 320, 10
"""Pixels of a panel, and between two."""


def grounds(height: int, width: int) -> tuple[np.ndarray, ...]:
    """Opaque RGBA grounds: a checkerboard, a dusk that goes from violet to orange, and paper."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    dusk = (1 - down) * np.float32([0.16, 0.14, 0.38]) + down * np.float32([0.98, 0.55, 0.32])
    cells = np.indices((height, width)) // 16
    board = np.where(cells.sum(axis=0)[..., None] % 2, 0.80, 0.93).astype(np.float32).repeat(3, axis=2)
    pictures = (board, np.broadcast_to(dusk, (height, width, 3)), np.full((height, width, 3), 0.96, np.float32))
    return tuple(np.dstack([to_uint8(picture), np.full((height, width), 255, np.uint8)]) for picture in pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--subject", nargs="+", default=["soap bubble", "candle glow"])
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args()
    engine = LayerDiffusion.from_checkpoint()
    rows: list[np.ndarray] = []
    for subject in given.subject:
        made = np.array(engine.generate(subject, seed=given.seed).images[0].rgba)
        cut_out = scaled(made, SIDE / made.shape[0])
        panels = [place(cut_out, ground)[..., :3] for ground in grounds(SIDE, SIDE)]
        spaced = [np.pad(panel, ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255) for panel in panels]
        rows.append(np.hstack(spaced)[:, :-MARGIN])
    buffer = io.BytesIO()
    Image.fromarray(np.vstack(rows)[:-MARGIN]).save(buffer, "PNG", optimize=True)
    given.output.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
