"""Placing and merging: known values, exactness where nothing is blended, limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import compose
from lib_layerdiffusion.images.arithmetic import composite
from lib_layerdiffusion.images.compose import Layer, merge, place, scaled
from tests.golden import rgba


def plain(height: int, width: int, *colour: int) -> np.ndarray:
    return np.full((height, width, 4), colour, np.uint8)


def premultiplied(picture: np.ndarray) -> np.ndarray:
    """Float 0..255: what shows, so that colour nobody can see does not count."""
    values = picture.astype(np.float64)
    return np.concatenate([values[..., :3] * values[..., 3:] / 255, values[..., 3:]], -1)


@pytest.mark.parametrize(("linear", "level"), [(False, 128), (True, 188)])
def test_half_white_over_black_is_half_the_values_or_half_the_light(linear, level):
    result = place(plain(4, 4, 255, 255, 255, 128), plain(4, 4, 0, 0, 0, 255), linear=linear)
    assert (result == (level, level, level, 255)).all()


def test_two_half_layers_follow_the_over_operator():
    # alpha = 0.4 + 0.2 * 0.6 = 0.52; red = 0.4 / 0.52, blue = 0.12 / 0.52
    result = place(plain(1, 1, 255, 0, 0, 102), plain(1, 1, 0, 0, 255, 51))
    assert result[0, 0].tolist() == [round(255 * 0.4 / 0.52), 0, round(255 * 0.12 / 0.52), round(255 * 0.52)]


@settings(max_examples=60)
@given(
    front=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    back=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    left=st.integers(-12, 12),
    top=st.integers(-12, 12),
    linear=st.booleans(),
)
def test_any_offset_equals_a_composite_on_the_whole_canvas(front, back, left, top, linear):
    foreground, background = rgba("front", 9, 9)[: front[0], : front[1]], rgba("back", 9, 9)[: back[0], : back[1]]
    canvas = np.zeros((40, 40, 4), np.uint8)
    canvas[15 + top : 15 + top + front[0], 15 + left : 15 + left + front[1]] = foreground
    window = canvas[15 : 15 + back[0], 15 : 15 + back[1]]
    covered = np.zeros((40, 40), bool)
    covered[15 + top : 15 + top + front[0], 15 + left : 15 + left + front[1]] = True
    covered = covered[15 : 15 + back[0], 15 : 15 + back[1]]
    expected = np.where(covered[..., None], composite(window, background, linear=linear), background)
    np.testing.assert_array_equal(place(foreground, background, left=left, top=top, linear=linear), expected)


def test_arguments_are_left_alone_and_strips_do_not_show(monkeypatch):
    front, back = rgba("front", 30, 20), rgba("back", 37, 41)
    front_before, back_before = front.copy(), back.copy()
    whole = place(front, back, left=5, top=3)
    stack = merge([Layer("a", back), Layer("b", front, 5, 3)], 37, 41)
    monkeypatch.setattr(compose, "STRIP_PIXELS", 150)
    np.testing.assert_array_equal(place(front, back, left=5, top=3), whole)
    np.testing.assert_array_equal(merge([Layer("a", back), Layer("b", front, 5, 3)], 37, 41), stack)
    assert (front == front_before).all()
    assert (back == back_before).all()


def test_merging_many_layers_is_rounded_once():
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (12, 24, 24, 4), dtype=np.uint8)
    pictures[..., 3] //= 4  # faint layers: rounding after each of them would add up
    exact = np.zeros((24, 24, 4))
    for picture in pictures.astype(np.float64) / 255:
        upper = np.concatenate([picture[..., :3] * picture[..., 3:], picture[..., 3:]], -1)
        exact = upper + exact * (1 - picture[..., 3:])
    exact[..., :3] /= exact[..., 3:]
    merged = merge([Layer(str(i), picture) for i, picture in enumerate(pictures)], 24, 24)
    assert np.abs(merged - exact * 255).max() <= 0.51


def test_merging_two_layers_equals_placing_one_on_the_other():
    front, back = rgba("front", 30, 20), rgba("back", 37, 41)
    merged = merge([Layer("back", back), Layer("front", front, -4, 15)], 37, 41)
    placed = place(front, back, left=-4, top=15)
    assert np.abs(premultiplied(merged) - premultiplied(placed)).max() <= 1


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 3.7])
def test_scaling_brings_out_no_hidden_colour_and_makes_no_ghosts(scale):
    picture = plain(32, 48, 0, 255, 0, 0)
    picture[8:24, 16:32] = (200, 40, 40, 255)
    result = scaled(picture, scale)
    assert result.shape == (round(32 * scale), round(48 * scale), 4)
    seen = result[result[..., 3] > 0]
    assert (np.abs(seen[:, :3].astype(int) - (200, 40, 40)) <= 1).all()
    reach = round(4 * max(scale, 1))
    assert not result[: round(8 * scale) - reach if scale > 1 else 0].any()
    assert abs(result[..., 3].mean() - picture[..., 3].mean()) < 4
    assert (result[round(15 * scale) : round(17 * scale), round(23 * scale) : round(25 * scale), 3] == 255).all()


def test_scale_and_offset_work_together():
    result = place(plain(4, 4, 9, 8, 7, 255), plain(20, 20, 0, 0, 0, 255), left=6, top=-2, scale=2)
    expected = plain(20, 20, 0, 0, 0, 255)
    expected[:6, 6:14] = (9, 8, 7, 255)
    np.testing.assert_array_equal(result, expected)


def test_tiny_and_very_long_pictures_can_be_scaled():
    assert scaled(plain(1, 1, 1, 2, 3, 255), 0.01).tolist() == [[[1, 2, 3, 255]]]
    assert scaled(plain(2, 40_000, 1, 2, 3, 255), 1.5).shape == (3, 60_000, 4)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 100.5])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(InputError, match="scale"):
        place(plain(2, 2, 0, 0, 0, 0), plain(2, 2, 0, 0, 0, 0), scale=scale)


def test_absurd_sizes_are_refused_before_they_are_made():
    small = plain(2000, 2000, 0, 0, 0, 0)
    with pytest.raises(InputError, match="64 megapixels"):
        place(small, small, scale=4.1)
    huge = np.broadcast_to(np.zeros(4, np.uint8), (8_001, 8_000, 4))
    for pair in ((small, huge), (huge, small)):
        with pytest.raises(InputError, match="64 megapixels"):
            place(*pair)
    with pytest.raises(InputError, match="64 megapixels"):
        merge([], 8_001, 8_000)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.float32), np.zeros((0, 4, 4), np.uint8)]
)
def test_other_arrays_are_refused(picture):
    good = plain(4, 4, 0, 0, 0, 0)
    for arguments in ((picture, good), (good, picture)):
        with pytest.raises(InputError):
            place(*arguments)


def test_hidden_layers_are_left_out_of_the_merged_picture():
    below, hidden = Layer("below", rgba("below", 6, 6)), Layer("above", rgba("above", 6, 6), visible=False)
    np.testing.assert_array_equal(merge([below, hidden], 6, 6), merge([below], 6, 6))
