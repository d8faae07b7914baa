"""Results by name, so that a request can go on from an earlier one without sending its picture back."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from modules import shared
from PIL import Image

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.reading import Picture, picture_hash
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.fields import FIELDS

MEMORY = 16_000_000
"""Pixels of the newest results that were not saved, which only memory holds."""
FOLDERS = ("outdir_samples", "outdir_txt2img_samples", "outdir_img2img_samples")
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif"})
_NAME = re.compile(r"[^/\\:\x00-\x1f]{1,200}")
_PICTURES = frozenset(
    name for row in FIELDS if row.attribute == "pictures" for name in (*row.names, row.old_infotext) if name
)
_POSITIONS = tuple(row.attribute == "pictures" for row in FIELDS)


def is_name(value: object) -> bool:
    """Whether `value` can be a result's name: text without a path, and with a sign that base64 does not have."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and not {".", "-"}.isdisjoint(value)


class EarlierResults:
    """The results of this process by name, and the host's saved ones by their files' names."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._saved: dict[str, Path] = {}
        self._lock = threading.Lock()  # the routes are answered beside a run

    def keep(self, image: Image.Image, layer: Layer) -> str:
        """Remember a result and return its name: that of its file, or its layer and content where it was not saved."""
        path = getattr(image, "already_saved_as", None)
        with self._lock:
            if path:
                self._saved[Path(path).name] = Path(path)
                return Path(path).name
            picture = np.array(image.convert("RGBA"))
            name = f"{layer}-{picture_hash(picture)}"
            self._kept[name] = picture
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(p.shape[0] * p.shape[1] for p in self._kept.values()) > MEMORY:
                self._kept.popitem(last=False)
        return name

    def find(self, name: str) -> Picture | bytes:
        """The result with that name, or its file's content.

        Raises:
            InputError: there is none.
        """
        with self._lock:
            if name in self._kept:
                return self._kept[name]
            own = self._saved.get(name)
        try:
            newest = max(_files(name, own), key=lambda path: path.stat().st_mtime_ns, default=None)
            if newest is not None:
                return newest.read_bytes()
        except OSError as error:
            raise InputError(f'The earlier result "{name}" cannot be read: send the picture as base64.') from error
        raise InputError(
            f'There is no earlier result "{name}": send the picture as base64, or a name that an answer gave.'
        )

    def inserted(self, args: Sequence[object]) -> list[object]:
        """A script's arguments, by position or as one mapping, with pictures in the place of their names.

        Raises:
            InputError: no result has such a name.
        """
        if args and isinstance(args[0], Mapping):
            values = cast("Mapping[str, object]", args[0])
            return [{key: self._meant(value, key in _PICTURES) for key, value in values.items()}, *args[1:]]
        return [self._meant(value, pick) for value, pick in zip(args, _POSITIONS, strict=False)] + [
            *args[len(_POSITIONS) :]
        ]

    def _meant(self, value: object, is_picture: bool) -> object:  # noqa: FBT001 - read beside the value
        return self.find(cast("str", value)) if is_picture and is_name(value) else value


def _files(name: str, own: Path | None) -> Iterator[Path]:
    """Files with that name in the host's folders for results and in their folders by date."""
    if own is not None and own.is_file():
        yield own
    if Path(name).suffix.lower() not in _ENDINGS:
        return
    for key in FOLDERS:
        folder = getattr(shared.opts, key, None)
        if folder and Path(folder).is_dir():
            yield from (path for place in _places(Path(folder)) if (path := place / name).is_file())


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (place for place in folder.iterdir() if place.is_dir())
