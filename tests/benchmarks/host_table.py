"""Write one host's row of a table in docs/hosts.md from the results of its run.

    python tests/benchmarks/host_table.py methods "Forge dfcdbab" EXPECTED RESULTS
    python tests/benchmarks/host_table.py everyday "Neo 2.26" RESULTS_OF_FORGE RESULTS

Both folders hold, for each case, NAME_latents.npz (what the VAE was given) and NAME_<i>.png. A cell says the largest
relative error of the latents and the largest difference of a picture in levels, colours weighted by alpha; a case that
was not run is a dash. Of an interrupted run it only says whether a layer came out, since hosts stop at another step
each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hosts.md"
METHODS = {
    "plain": ("plain",),
    "transparent": ("transparent", "wide", "batch_and_iterations"),
    "everything": ("joint", "joint_two_iterations"),
    "fg-to-bg": ("fg2bg", "fill"),
    "bg-to-fg": ("bg2fg",),
    "Stop At": ("stop_at_half", "stop_at_zero"),
    "img2img": ("img2img",),
}
EVERYDAY = {
    "hires fix": ("hires", "hires_none"),
    "inpaint whole": ("inpaint_whole",),
    "inpaint masked": ("inpaint_masked",),
    "X/Y/Z": ("xyz",),
    "LoRA, SD1.5 method": ("lora_sharing",),
    "LoRA, SDXL method": ("lora_offsets",),
    "batch 2 x 2": ("batch2x2",),
    "Stop At": ("stop_at",),
    "interrupted": ("interrupted",),
}
TABLES = {"methods": METHODS, "everyday": EVERYDAY}
INTERRUPTED = ("interrupted",)


def latent_error(expected: Path, actual: Path) -> float:
    """Largest relative error of the batches in two files."""
    a, b = np.load(expected), np.load(actual)
    return max(float(np.linalg.norm(a[key] - b[key]) / np.linalg.norm(a[key])) for key in a.files)


def levels(expected: Path, actual: Path) -> int:
    """Largest difference of two pictures, 255 where they differ in kind or size; colour that is not seen counts little.

    The smaller one of the plain difference and that of colours weighted by alpha, whose product rounds once more.
    """
    a, b = Image.open(expected), Image.open(actual)
    if (a.mode, a.size) != (b.mode, b.size):
        return 255
    plain = int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())
    return min(plain, round(float(np.abs(_seen(a) - _seen(b)).max())))


def _seen(image: Image.Image) -> NDArray[np.float64]:
    """Levels, those of colours weighted by alpha."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "RGBA":
        values[..., :3] *= values[..., 3:] / 255
    return values


def cell(names: tuple[str, ...], expected: Path, results: Path) -> str:
    """What a column says of its cases."""
    done = [name for name in names if (results / f"{name}_latents.npz").is_file()]
    if not done:
        return "-"
    if names == INTERRUPTED:
        return "a layer" if Image.open(results / "interrupted_0.png").mode == "RGBA" else "no layer"
    error = max(latent_error(*(folder / f"{name}_latents.npz" for folder in (expected, results))) for name in done)
    pairs = [(expected / path.name, path) for name in done for path in sorted(results.glob(f"{name}_[0-9].png"))]
    return f"{error:.1e}, {max(levels(*pair) for pair in pairs)}" if error else f"identical, {levels(*pairs[0])}"


def plain_afterwards(results: Path) -> str:
    """Whether the last plain picture is the first one, to the bit, in latent and pixels."""
    ends = ("_latents.npz", "_0.png")
    last = next((name for name in ("plain_last", "plain_after") if (results / f"{name}{ends[0]}").is_file()), None)
    if last is None:
        return "-"
    pairs = [(results / f"plain{end}", results / f"{last}{end}") for end in ends]
    same = latent_error(*pairs[0]) == 0 and levels(*pairs[1]) == 0
    return "identical" if same else "differs"


def main() -> None:
    """Put the row in the place of the host's older one, or at the end."""
    table, name, expected, results = *sys.argv[1:3], *map(Path, sys.argv[3:5])
    begin, end = f"<!-- {table} -->", f"<!-- /{table} -->"
    cells = [cell(names, expected, results) for names in TABLES[table].values()]
    row = f"| {name} | {' | '.join(cells)} | {plain_afterwards(results)} |"
    text = PAGE.read_text(encoding="utf-8")
    before, rows, after = text[: text.index(begin)], text[text.index(begin) : text.index(end)], text[text.index(end) :]
    lines = [line for line in rows.rstrip().splitlines() if not line.startswith(f"| {name} |")]
    PAGE.write_text(before + "\n".join([*lines, row]) + "\n" + after, encoding="utf-8")
    print(row)


if __name__ == "__main__":
    main()
