"""Tells when a picture that should be transparent came out solid."""

from __future__ import annotations

import numpy as np

from lib_layerdiffusion.images.arithmetic import Picture8

NEARLY_OPAQUE = 0.98
"""The mean alpha, and the share of pixels whose alpha is above this value, from which on a picture counts as solid."""

LOWEST_OPAQUE = 254
"""Alpha levels from here on hide everything: hosts write their infotext into the last bit of an opaque picture."""

OPAQUE_MESSAGE = (
    "The picture came out opaque nearly everywhere: ask for a plain neutral grey background in the prompt "
    '(the option "Plain background words" does so), '
    "or use a checkpoint that is closer to its base model, because strong retraining paints solid backgrounds."
)


PLAIN_BACKGROUND = "plain neutral grey background"
"""Words of the prompt aid: they keep models that paint solid scenes from filling what should stay clear."""


def has_transparency(rgba: Picture8) -> bool:
    """Whether anything of what lies behind shows through, uint8 [H, W, 4]; alpha of 254 and 255 alone is no sign of it.

    255 and 254 side by side are a text in the last bit ("stealth infotext"), which makes no picture transparent.
    """
    return bool((rgba[..., 3] < LOWEST_OPAQUE).any())


def without_hidden_text(rgba: Picture8) -> Picture8:
    """An opaque picture whose alpha is 254 and 255 as one of alpha 255; any other as it is. uint8 [H, W, 4]."""
    if has_transparency(rgba) or (rgba[..., 3] == 255).all():
        return rgba
    solid = rgba.copy()
    solid[..., 3] = 255
    return solid


def opaque_input_note(name: str) -> str:
    """Says that a picture which brings alpha has none."""
    return (
        f"The {name} picture is opaque throughout, so nothing around its subject counts as clear: give a cut-out with "
        "alpha if there should be."
    )


def is_opaque(rgba: Picture8) -> bool:
    """Whether a picture hides nearly everything behind it.

    rgba: uint8 [H, W, 4]. True where the mean alpha and the share of pixels with alpha above 0.98 both exceed 0.98.
    """
    alpha = rgba[..., 3]
    solid_share = float(np.mean(alpha > NEARLY_OPAQUE * 255))
    return solid_share > NEARLY_OPAQUE and float(alpha.mean()) > NEARLY_OPAQUE * 255


def opaque_warning(rgba: Picture8) -> str | None:
    """The sentence for the result's comments, with the two remedies, or None where the picture is as it should be."""
    return OPAQUE_MESSAGE if is_opaque(rgba) else None
