"""Makes the page's pictures of subjects anew: `python -m tests.pages.take_thumbnails`.

For each subject some seeds are tried and the picture is taken that is the most of one piece: what is seen lies in it,
nothing hangs in the corners. `--sheet FILE` shows all that were tried.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.server.app import WEB

SUBJECTS = ("red apple", "watermelon", "frog", "gem stone", "soap bubble", "rainbow")
SAMPLE = "sample"
"""The picture that the first view shows on three grounds."""
SIDE, TRIES = 128, 6
"""Pixels of a thumbnail; seeds that are tried for one."""


def dirt(picture: Image.Image) -> float:
    """How much is seen at the border, and how much is neither clear nor solid: less is better."""
    alpha = np.asarray(picture.getchannel("A")).astype(np.float32) / 255
    width = max(2, alpha.shape[0] // 16)
    inside = alpha[width:-width, width:-width]
    return float(alpha.sum() - inside.sum()) / alpha.size * 16 + float((alpha * (1 - alpha)).mean())


def written(picture: Image.Image, side: int) -> bytes:
    """As WebP; colour is premultiplied while it is scaled, so that nothing of what is clear gets into the edges."""
    small = picture.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, alpha_quality=90, method=6)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEB / "thumbnails")
    parser.add_argument("--sample", default="soap bubble", help="subject of the larger picture")
    parser.add_argument("--sheet", type=Path, help="write all tries here")
    given = parser.parse_args()
    engine = LayerDiffusion.from_checkpoint()
    rows: list[list[Image.Image]] = []
    for subject in dict.fromkeys((*SUBJECTS, given.sample)):
        tries = [engine.generate(subject, seed=seed).images[0].rgba for seed in range(1, TRIES + 1)]
        best = min(tries, key=dirt)
        rows.append(tries)
        if subject in SUBJECTS:
            (given.folder / f"{subject.replace(' ', '-')}.webp").write_bytes(written(best, SIDE))
        if subject == given.sample:
            (given.folder / f"{SAMPLE}.webp").write_bytes(written(best, best.width))
    if given.sheet:
        side = rows[0][0].width
        sheet = Image.new("RGBA", (side * TRIES, side * len(rows)), "white")
        for down, tries in enumerate(rows):
            for across, picture in enumerate(tries):
                sheet.alpha_composite(picture, (across * side, down * side))
        sheet.convert("RGB").save(given.sheet)


if __name__ == "__main__":
    main()
