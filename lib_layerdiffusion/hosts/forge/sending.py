"""Alpha through the host's "send to" buttons, of which some take it off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from lib_layerdiffusion.hosts.forge import webui
from lib_layerdiffusion.hosts.forge.control import extend
from lib_layerdiffusion.hosts.forge.saving import has_transparency

_MODULE, _SENDING, _READING = "modules.infotext_utils", "send_image_and_dimensions", "image_from_url_text"


def keep_alpha() -> None:
    """Let pictures keep their alpha on the way to another tab, on hosts that hand on colour alone (Neo 2.26)."""
    module = webui.optional(_MODULE)
    if hasattr(module, _SENDING):
        extend(module, _SENDING, _with_alpha)


def _with_alpha(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_with_alpha(x: Any) -> Any:
        image, *size = send(x)
        if isinstance(image, Image.Image) and not has_transparency(image):
            given = _given(x)
            image = given if isinstance(given, Image.Image) and has_transparency(given) else image
        return image, *size

    return send_with_alpha


def _given(x: Any) -> Any:
    """The picture that a button takes from its gallery, which hands over pairs of picture and caption or a file."""
    if isinstance(x, list) and x and isinstance(x[0], tuple):
        return x[0][0]
    return x if isinstance(x, Image.Image) else webui.optional(_MODULE, _READING)(x)
