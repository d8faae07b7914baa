"""Pictures that were sent in, kept in memory for a while under names that requests can use."""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from lib_layerdiffusion.images.files import INFOTEXT_KEY
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.server.faults import MissingError
from lib_layerdiffusion.server.limits import Limits

PREFIX = "upload-"


@dataclass(frozen=True)
class Upload:
    """content: of the file as it came. alpha: whether anything in it is transparent. infotext: "" where it has none."""

    name: str
    content: bytes
    width: int
    height: int
    alpha: bool
    infotext: str
    added: float


class Uploads:
    """Uploads by name; the oldest go first. Safe to use from several threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes, label: str = "sent") -> Upload:
        """Keep the content of a picture's file.

        Raises:
            InputError: it is no picture that can be used.
        """
        picture = read_picture(content, label)
        if picture is None:
            raise MissingError("There is no picture in this request: send the content of a picture's file.")
        name = f"{PREFIX}{secrets.token_hex(16)}"
        height, width = picture.shape[:2]
        alpha = bool((picture[..., 3] < 255).any())
        upload = Upload(name, content, width, height, alpha, _infotext(content), time.monotonic())
        with self._lock:
            self._kept[name] = upload
            while len(self._kept) > 1 and sum(len(kept.content) for kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return upload

    @property
    def _most(self) -> int:
        return self._limits.upload_bytes

    def find(self, name: str) -> Upload:
        """The upload of that name.

        Raises:
            MissingError: there is none, or not any more.
        """
        with self._lock:
            upload = self._kept.get(name)
            if upload is not None and time.monotonic() - upload.added > self._limits.kept_seconds:
                del self._kept[name]
                upload = None
            elif upload is not None:
                self._kept.move_to_end(name)
        if upload is None:
            raise MissingError("This picture is not on the server any more: send it again.")
        return upload


def _infotext(content: bytes) -> str:
    """The infotext of a picture's file; whether it can be read at all is found out elsewhere."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return str(image.info.get(INFOTEXT_KEY, ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def png_bytes(picture: Picture | Image.Image) -> bytes:
    """A picture as PNG, quickly rather than small: it goes to the machine that it was sent from."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
