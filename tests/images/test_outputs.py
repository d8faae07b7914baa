"""Trimming to content, and colour and alpha apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.outputs import apart, content_box, trimmed

PICTURES = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4)),
    elements=st.sampled_from([0, 0, 0, 2, 3, 128, 254, 255]),
)


@given(PICTURES)
def test_what_is_trimmed_holds_all_content_and_no_clear_border(rgba):
    content, left, top = trimmed(rgba)
    height, width = content.shape[:2]
    assert np.array_equal(content, rgba[top : top + height, left : left + width])
    outside = rgba[..., 3].copy()
    outside[top : top + height, left : left + width] = 0
    assert outside.max() < 3
    if rgba[..., 3].max() >= 3:
        for edge in (content[0], content[-1], content[:, 0], content[:, -1]):
            assert edge[..., 3].max() >= 3
    else:
        assert content.shape == rgba.shape


def test_the_box_of_a_sprite():
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[10:20, 30:45, 3] = 255
    rgba[5, 5, 3] = 2  # haze that nobody sees
    assert content_box(rgba) == (30, 10, 45, 20)


@given(PICTURES)
def test_colour_and_mask_are_the_picture(rgba):
    colour, mask = apart(rgba)
    assert np.array_equal(mask, rgba[..., 3])
    assert np.array_equal(colour[mask > 0], rgba[mask > 0][:, :3])


def test_colour_goes_on_under_what_is_clear():
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (200, 40, 10, 255)
    colour, _ = apart(rgba)
    assert np.abs(colour.astype(int) - (200, 40, 10)).max() <= 1


def test_only_rgba_is_taken():
    for function in (content_box, trimmed, apart):
        with pytest.raises(InputError, match="RGBA"):
            function(np.zeros((4, 4, 3), np.uint8))
