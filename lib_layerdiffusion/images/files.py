"""Files that are whole or not there: written beside their place first, then moved into it."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_layerdiffusion.errors import InputError, StorageError
from lib_layerdiffusion.images.decoding import check_bytes, open_picture
from lib_layerdiffusion.images.reading import Picture, read_picture

INFOTEXT_KEY = "parameters"
"""The PNG text chunk in which A1111, Forge and what reads their pictures expect the infotext."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is complete whenever it is seen; folders are made.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise StorageError(f'"{path}" cannot be written: {error.strerror or error}.') from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_png(path: Path, picture: Image.Image | NDArray[np.uint8], infotext: str = "") -> None:
    """Write a PNG, with an infotext where there is one.

    Raises:
        StorageError: it cannot be written.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    information = PngInfo()
    if infotext:
        information.add_text(INFOTEXT_KEY, infotext)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=information)
    write_bytes(path, buffer.getvalue())


def load_picture(source: object, name: str) -> Picture:
    """The picture in a file, or one in memory, as uint8 RGBA [H, W, 4].

    source: a path (also as text), or whatever `pictures.read_picture` takes but text.

    Raises:
        InputError: there is no such file, or it holds no usable picture.
    """
    content = read_file(Path(source), name) if isinstance(source, str | os.PathLike) else source
    picture = read_picture(content, name)
    if picture is None:
        raise InputError(f"The {name} picture is empty: choose it again.")
    return picture


def read_file(path: Path, name: str) -> bytes:
    """The content of a picture's file; a longer one than any picture needs is refused before it is read.

    Raises:
        InputError: there is no such file, it cannot be read, or it is too long.
    """
    place = path.expanduser()
    try:
        found = place.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a device or a pipe may never end
            raise InputError(f'The {name} picture "{place}" is no file: choose a picture file.')
        check_bytes(found.st_size, name)
        return place.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or "there is no file of that name"
        raise InputError(f'The {name} picture "{place}" cannot be read: {reason}.') from error


def infotext_of(path: Path) -> str:
    """The infotext of a PNG, "" where it has none.

    Raises:
        InputError: the file is no picture.
    """
    with open_picture(read_file(path, path.name), path.name) as image:
        information: Mapping[object, object] = image.info
        return str(information.get(INFOTEXT_KEY, ""))
