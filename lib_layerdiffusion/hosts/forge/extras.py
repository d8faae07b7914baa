"""The host's Extras tab with alpha: colour goes through its scripts, alpha is brought along beside it.

Upscalers, face tools and pixel art hand on RGB, or scale colour and alpha as if they had nothing to do with each other.
Every one of them, through page and API, is called by one function of the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from lib_layerdiffusion.hosts.forge import control, options, saving, webui
from lib_layerdiffusion.images.arithmetic import to_float, to_uint8
from lib_layerdiffusion.images.follow import carry_alpha
from lib_layerdiffusion.images.opacity import has_transparency
from lib_layerdiffusion.images.outputs import apart
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.interface.wording import EXTRAS_EVERY, EXTRAS_NEVER

INFO_KEY = "LayerDiffusion"
"""Of what the host shows below the results of its Extras tab."""
LOST = "a script changed the picture so much that its alpha could not follow, so this one is opaque"


def keep_alpha() -> None:
    """Let pictures with alpha come out of the Extras tab with it, as far as the settings page says."""
    runner = webui.optional("modules.scripts_postprocessing", "ScriptPostprocessingRunner")
    if runner is not None:
        control.extend(runner, "run", _around)


def _around(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_beside_alpha(runner: Any, pp: Any, *arguments: Any, **named: Any) -> Any:
        whole = _kept(pp.image)
        if whole is None:
            return run(runner, pp, *arguments, **named)
        colour, _ = apart(whole)
        opaque = saving.to_image(colour)
        opaque.info.update(pp.image.info)
        pp.image = opaque
        result = run(runner, pp, *arguments, **named)
        for each in (pp, *pp.extra_images):
            _put_back(each, whole, colour)
        return result

    return run_beside_alpha


def _kept(image: Any) -> Picture | None:
    """The picture whose alpha is to be kept, uint8 [H, W, 4], None where none is."""
    chosen = options.extras_alpha()
    if chosen == EXTRAS_NEVER or not isinstance(image, Image.Image) or image.mode != "RGBA":
        return None
    whole = np.array(image)
    if not has_transparency(whole):
        return None
    return whole if chosen == EXTRAS_EVERY or saving.is_made_here(image) else None


def _put_back(pp: Any, whole: Picture, colour: Picture) -> None:
    """Alpha on one result of the scripts, where they did not make their own."""
    after = np.array(pp.image.convert("RGBA"))
    carried = carry_alpha(whole, colour, np.ascontiguousarray(after[..., :3]))
    if carried is None:
        pp.info[INFO_KEY] = LOST
        return
    if has_transparency(after):  # a script that cuts out a subject: what it cleared stays clear
        carried[..., 3] = to_uint8(to_float(carried[..., 3]) * to_float(after[..., 3]))
    pp.image = saving.to_image(carried)
