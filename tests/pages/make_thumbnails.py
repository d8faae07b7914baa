"""Makes the page's thumbnails from the bundled family: `python -m tests.pages.make_thumbnails`.

Every file of the folder that is named like a subject is made anew, and the sample of the first view; the seed is in
`SEEDS`, or 1.
"""

from __future__ import annotations

from pathlib import Path

import lib_layerdiffusion.server
from lib_layerdiffusion import LayerDiffusion

FOLDER = Path(lib_layerdiffusion.server.__file__).parent / "web" / "thumbnails"
SAMPLE = "soap bubble"
SEEDS: dict[str, int] = {}
"""Of the subjects whose picture with seed 1 is not their best."""


def main() -> None:
    engine = LayerDiffusion.from_checkpoint(None)
    for path in sorted(FOLDER.glob("*.webp")):
        subject = SAMPLE if path.stem == "sample" else path.stem.replace("-", " ")
        (picture,) = engine.generate(subject, seed=SEEDS.get(path.stem, 1)).images
        picture.rgba.save(path, quality=88, method=6)
        print(f"{path.name}: {subject}, {picture.rgba.width}x{picture.rgba.height}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
