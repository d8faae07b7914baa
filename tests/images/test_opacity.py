"""When the warning about an opaque result appears."""

from __future__ import annotations

import numpy as np
import pytest

from lib_layerdiffusion.images.opacity import is_opaque, opaque_warning
from tests.golden import rgba


def with_alpha(alpha: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((*alpha.shape, 3), 90, np.uint8), alpha.astype(np.uint8)])


def test_a_solid_picture_is_told_with_both_remedies():
    solid = with_alpha(np.full((100, 100), 255))
    solid[:1, :, 3] = 0  # a stray hole of one percent
    message = opaque_warning(solid)
    assert message is not None
    assert "grey background" in message
    assert "base model" in message


@pytest.mark.parametrize(
    "alpha",
    [
        np.zeros((50, 50)),
        np.full((50, 50), 245),  # thin everywhere: tinted glass, not a solid picture
        np.where(np.arange(2500).reshape(50, 50) < 75, 0, 255),  # three percent of holes
    ],
    ids=["clear", "glass", "holes"],
)
def test_pictures_with_transparency_are_left_in_peace(alpha):
    assert opaque_warning(with_alpha(alpha)) is None
    assert not is_opaque(rgba("usual", 64, 64))


def test_alpha_just_below_full_still_counts_as_opaque():
    assert is_opaque(with_alpha(np.full((20, 20), 251)))
