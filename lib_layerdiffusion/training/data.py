"""The data set: icons with true alpha from two npm packages, rendered to RGBA arrays of one size.

Sources, both MIT: `@lobehub/fluent-emoji-3d` (256 px pictures, one per code point) and `@iconify-json/fluent-emoji`
(vector pictures by name). `unicode-emoji-json` (MIT) joins code points to names. Pictures of another hand,
`@iconify-json/openmoji` (CC-BY-SA 4.0), go into a set of their own that is only measured on, never trained on. The sets
are built, never shipped.
"""

import json
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.decoding import decode_picture
from lib_layerdiffusion.images.files import load_picture, write_bytes
from lib_layerdiffusion.training.workers import in_parallel

PACKAGES = ("@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/fluent-emoji@1.2.7", "unicode-emoji-json@0.9.0")
OTHER_PACKAGE = "@iconify-json/openmoji@1.2.29"
OTHER_STYLE = "other"
"""Folder, inside the data folder, of the set for measuring."""
OTHER_COUNT = 300
_SKIN = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?$")
SHRINK_STEP = 1.2


def slug(name: str) -> str:
    """Return a picture's name as the packages write it: lower case, hyphens, no quotes."""
    return re.sub(r"[^a-z0-9-]", "", name.lower().replace(" ", "-"))


def is_held_out(name: str) -> bool:
    """Tell whether a name belongs to the tenth that is never trained on (all styles of a name together)."""
    return zlib.crc32(name.encode()) % 10 == 0


def pad_colour(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """Continue colour under alpha 0 with a shrinking pyramid (the paper's padded RGB).

    Args:
        rgba: [H, W, 4] straight colour and alpha in [0, 1]; colour where alpha is 0 is ignored.

    Returns:
        [H, W, 3] in [0, 1], equal to the colour where alpha is 1.
    """
    alpha = rgba[..., 3:]
    levels = [np.concatenate([rgba[..., :3] * alpha, alpha], axis=-1)]
    while min(levels[-1].shape[:2]) > 1:
        height, width = (max(1, int(side / SHRINK_STEP)) for side in levels[-1].shape[:2])
        levels.append(cv2.resize(levels[-1], (width, height), interpolation=cv2.INTER_AREA))
    total = levels[0].sum(axis=(0, 1))
    colour = np.ones((1, 1, 3), np.float32) * (total[:3] / max(float(total[3]), 1e-6))
    for level in reversed(levels):
        height, width = level.shape[:2]
        below = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 3)
        colour = level[..., :3] + below * (1 - level[..., 3:])
    # Undo the blend where the pixel itself is partly transparent: its own straight colour is known.
    own = np.clip(alpha * 8, 0, 1)
    return np.clip(rgba[..., :3] * own + colour * (1 - own), 0, 1).astype(np.float32)


def _fit(rgba: NDArray[np.uint8], size: int, margin: int) -> NDArray[np.uint8]:
    """Area-shrink into size - 2 margin, centre, and pad colour: [size, size, 4]; read colour only where alpha > 0."""
    straight = rgba.astype(np.float32) / 255
    inner = size - 2 * margin
    premultiplied = np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=-1)
    scale = inner / max(rgba.shape[:2])
    shape = tuple(max(1, round(side * scale)) for side in rgba.shape[1::-1])
    small = cv2.resize(premultiplied, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((size, size, 4), np.float32)
    top, left = (size - small.shape[0]) // 2, (size - small.shape[1]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    canvas[..., :3] /= np.maximum(canvas[..., 3:], 1e-4)
    canvas = np.clip(canvas, 0, 1)
    canvas[..., :3] = pad_colour(canvas)
    return np.round(canvas * 255).astype(np.uint8)


def fetch_packages(folder: Path) -> None:
    """Download and unpack the packages with npm's ordinary client into `folder/packages`.

    Raises:
        InputError: npm is missing or the download failed.
    """
    target = folder / "packages"
    target.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", *PACKAGES, OTHER_PACKAGE]
    try:
        subprocess.run(command, cwd=target, check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError("npm could not fetch the icon packages; install Node.js and check the network.") from error
    for archive in target.glob("*.tgz"):
        with tarfile.open(archive) as packed:
            for member in packed.getmembers():
                # Every member lies under `package/`; give each archive its own folder and refuse odd paths.
                parts = Path(member.name).parts
                if not member.isfile() or ".." in parts or member.name.startswith("/"):
                    continue
                path = target / archive.stem / Path(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                content = packed.extractfile(member)
                if content is not None:
                    path.write_bytes(content.read())


def _package(folder: Path, stem: str) -> Path:
    found = sorted(path for path in (folder / "packages").glob(f"{stem}-*") if path.is_dir())
    if not found:
        raise InputError(f"The package {stem} is not in {folder / 'packages'}; run the data stage with --fetch.")
    return found[-1]


def _names_by_code(folder: Path) -> dict[str, str]:
    table = json.loads((_package(folder, "unicode-emoji-json") / "data-by-emoji.json").read_text())
    return {
        "-".join(f"{ord(char):04x}" for char in emoji).replace("-fe0f", ""): slug(entry["name"])
        for emoji, entry in table.items()
    }


def _sources_3d(folder: Path) -> Iterator[tuple[str, Path]]:
    names = _names_by_code(folder)
    for path in sorted((_package(folder, "lobehub-fluent-emoji-3d") / "assets").glob("*.webp")):
        name = names.get(path.stem.replace("-fe0f", ""))
        if name:
            yield name, path


def _sources_vector(folder: Path, stem: str) -> Iterator[tuple[str, str]]:
    """The pictures of an icon package as SVG, without the variants in other skin tones."""
    table = json.loads((_package(folder, stem) / "icons.json").read_text())
    for name, icon in sorted(table["icons"].items()):
        if not _SKIN.search(name):
            width, height = (icon.get(side, table.get(side, 16)) for side in ("width", "height"))
            box = f"0 0 {width} {height}"
            yield name, f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'


def _drawn(source: Path | str, size: int, margin: int) -> NDArray[np.uint8]:
    """A picture file or an SVG as [size, size, 4]."""
    if isinstance(source, Path):
        return _fit(load_picture(source, source.name), size, margin)
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=source, width=2 * size, height=2 * size, skip_system_fonts=True))
    return _fit(decode_picture(png, "rendered"), size, margin)


def build(folder: Path, size: int = 128, margin: int = 8) -> int:
    """Render every picture into `folder/rgba.npy` ([N, size, size, 4] uint8, colour padded) and `folder/index.json`.

    Returns:
        The number of pictures.
    """
    sources: list[Path | str] = []
    index: list[dict[str, object]] = []
    vector = _sources_vector(folder, "iconify-json-fluent-emoji")
    for style, found in (("3d", _sources_3d(folder)), ("flat", vector)):
        for name, source in found:
            sources.append(source)
            index.append({"name": name, "style": style, "held_out": is_held_out(name)})
    _write(folder, in_parallel(partial(_drawn, size=size, margin=margin), sources), index)
    return len(sources)


def build_other(folder: Path, size: int = 128, margin: int = 8, count: int = OTHER_COUNT) -> int:
    """Render `count` pictures of another style, evenly chosen, into a set of their own in `folder/other`.

    Returns:
        The number of pictures.
    """
    named = list(_sources_vector(folder, "iconify-json-openmoji"))
    chosen = [named[int(row)] for row in np.linspace(0, len(named) - 1, min(count, len(named)))]
    index: list[dict[str, object]] = [{"name": n, "style": OTHER_STYLE, "held_out": True} for n, _ in chosen]
    drawn = in_parallel(partial(_drawn, size=size, margin=margin), [source for _, source in chosen])
    _write(folder / OTHER_STYLE, drawn, index)
    return len(chosen)


def _write(folder: Path, pictures: list[NDArray[np.uint8]], index: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)  # it says that the rest is whole
    np.save(folder / "rgba.npy", np.stack(pictures))
    write_bytes(folder / "index.json", json.dumps(index).encode())


def picture_size(folder: Path) -> int:
    """Pixels a side of a built set's pictures.

    Raises:
        InputError: the set has not been built.
    """
    if not (folder / "rgba.npy").exists():
        raise InputError(f"There is no data set in {folder}; run `layerdiffusion train data` first.")
    return int(np.load(folder / "rgba.npy", mmap_mode="r").shape[1])


@dataclass(frozen=True)
class IconSet:
    """Icons in memory: `rgba` [N, S, S, 4] uint8 (padded colour, straight alpha), names and styles by row."""

    rgba: NDArray[np.uint8]
    names: tuple[str, ...]
    styles: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, *, held_out: bool | None = None, style: str | None = None) -> "IconSet":
        """Read a built set; keep only the held-out or the training pictures, or one style, where asked.

        Raises:
            InputError: the set has not been built.
        """
        if not (folder / "index.json").exists():
            raise InputError(f"There is no data set in {folder}; run `layerdiffusion train data` first.")
        index = json.loads((folder / "index.json").read_text())
        rows = [
            row
            for row, entry in enumerate(index)
            if (held_out is None or entry["held_out"] == held_out) and (style is None or entry["style"] == style)
        ]
        rgba = np.load(folder / "rgba.npy", mmap_mode="r")[rows]
        return cls(rgba, tuple(index[row]["name"] for row in rows), tuple(index[row]["style"] for row in rows))

    def of_style(self, style: str) -> "IconSet":
        """Keep one style."""
        rows = [row for row, other in enumerate(self.styles) if other == style]
        return IconSet(self.rgba[rows], tuple(self.names[r] for r in rows), (style,) * len(rows))

    def only(self, names: list[str]) -> "IconSet":
        """Keep the pictures with these names, in the order of `names`; a name without picture is refused.

        Raises:
            InputError: a name has no picture.
        """
        missing = sorted(set(names) - set(self.names))
        if missing:
            raise InputError(f"The data set has no picture of {', '.join(missing)}; correct the subject list.")
        rows = [row for name in names for row, other in enumerate(self.names) if other == name]
        return IconSet(self.rgba[rows], tuple(self.names[r] for r in rows), tuple(self.styles[r] for r in rows))
