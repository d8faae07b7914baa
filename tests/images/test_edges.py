"""Edge clean-up on a synthetic matte whose true foreground is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib_layerdiffusion.errors import InputError, SettingsError
from lib_layerdiffusion.images.arithmetic import to_uint8
from lib_layerdiffusion.images.edges import SOLID_LEVEL, alpha_levels, clean_edges, decontaminate

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "green": (0.0, 0.8, 0.1)}
SHAPES = {"disc": 40.0, "strand": 3.0}


def truth(shape: str, softness: float = 6.0, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Foreground colour everywhere [H, W, 3] and its alpha [H, W], float: a disc or a strand with a soft edge."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    rng = np.random.default_rng(3)
    waves = 0.12 * np.stack([np.sin(0.06 * x + 0.09 * y), np.cos(0.11 * x), np.sin(0.08 * y)], -1)
    colour = np.array([0.65, 0.35, 0.3]) + waves + rng.normal(0, 0.01, (size, size, 3))
    distance = np.hypot(x - size / 2, y - size / 2) if shape == "disc" else np.abs(x - size / 2 - 8 * np.sin(y / 20))
    return np.clip(colour, 0, 1), np.clip((SHAPES[shape] - distance) / softness + 1, 0, 1)


def contaminated(colour: np.ndarray, alpha: np.ndarray, background: tuple[float, ...]) -> np.ndarray:
    mixed = colour * alpha[..., None] + np.array(background) * (1 - alpha[..., None])
    return to_uint8(np.dstack([mixed, alpha]))


def edge_error(picture: np.ndarray, colour: np.ndarray) -> float:
    """Mean colour error of the soft pixels in levels, weighted with alpha: as it shows on another background."""
    alpha = picture[..., 3].astype(np.float64)
    soft = (alpha > 0) & (alpha < SOLID_LEVEL)
    error = np.abs(picture[..., :3] - colour * 255).mean(-1)
    return float((error * alpha)[soft].sum() / alpha[soft].sum())


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_lowers_the_colour_error_at_soft_edges(shape, background):
    colour, alpha = truth(shape)
    before = contaminated(colour, alpha, BACKGROUNDS[background])
    after = clean_edges(before)
    assert edge_error(after, colour) < 0.4 * edge_error(before, colour)
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    kept = (alpha == 0) | (before[..., 3] >= SOLID_LEVEL)
    np.testing.assert_array_equal(after[kept], before[kept])


def test_half_the_strength_goes_half_the_way():
    colour, alpha = truth("disc")
    before = contaminated(colour, alpha, BACKGROUNDS["green"])
    half, whole = (decontaminate(before, strength).astype(int) for strength in (0.5, 1.0))
    assert np.abs(2 * half - before - whole).max() <= 2
    np.testing.assert_array_equal(decontaminate(before, 0.0), before)


def test_a_clean_matte_is_hardly_changed():
    colour, alpha = truth("disc")
    clean = to_uint8(np.dstack([colour, alpha]))
    assert edge_error(decontaminate(clean), colour) < 6


def test_glass_far_from_anything_solid_keeps_its_colour():
    picture = np.zeros((64, 160, 4), np.uint8)
    picture[:, :20] = (200, 30, 30, 255)
    picture[:, 20:] = (40, 120, 220, 90)
    result = decontaminate(picture)
    np.testing.assert_array_equal(result[:, 20 + 17 :], picture[:, 20 + 17 :])
    assert (result[:, 21, :3] == (200, 30, 30)).all()


def test_a_picture_without_solid_pixels_stays_as_it_is():
    picture = np.full((20, 20, 4), 120, np.uint8)
    np.testing.assert_array_equal(decontaminate(picture), picture)


@settings(max_examples=50)
@given(picture=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4))))
def test_alpha_and_solid_pixels_of_any_picture_are_untouched(picture):
    before = picture.copy()
    result = decontaminate(picture)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(result[..., 3], before[..., 3])
    kept = (before[..., 3] == 0) | (before[..., 3] >= SOLID_LEVEL)
    np.testing.assert_array_equal(result[kept], before[kept])


def test_alpha_levels_stretch_between_the_points():
    picture = np.zeros((1, 256, 4), np.uint8)
    picture[0, :, 3] = np.arange(256)
    picture[..., :3] = 77
    result = alpha_levels(picture, 0.2, 0.8)
    alpha = result[0, :, 3].astype(int)
    assert not alpha[:52].any()
    assert (alpha[204:] == 255).all()
    assert abs(int(alpha[102]) - round(255 * (102 / 255 - 0.2) / 0.6)) <= 1
    assert (np.diff(alpha) >= 0).all()
    assert (result[..., :3] == 77).all()
    np.testing.assert_array_equal(alpha_levels(picture), picture)


def test_levels_are_set_after_the_colour_was_put_right():
    colour, alpha = truth("disc")
    before = contaminated(colour, alpha, BACKGROUNDS["green"])
    both = clean_edges(before, white_point=0.5)
    np.testing.assert_array_equal(both[..., :3], decontaminate(before)[..., :3])
    assert (both[alpha > 0.51][:, 3] == 255).all()


@pytest.mark.parametrize("points", [(-0.1, 1), (0, 1.1), (0.5, 0.5), (0.8, 0.2), (float("nan"), 1)])
def test_points_out_of_range_are_refused(points):
    with pytest.raises(SettingsError, match="levels"):
        alpha_levels(np.zeros((2, 2, 4), np.uint8), *points)


def test_other_bad_arguments_are_refused():
    with pytest.raises(SettingsError, match="strength"):
        decontaminate(np.zeros((2, 2, 4), np.uint8), 1.5)
    with pytest.raises(InputError, match="RGBA"):
        decontaminate(np.zeros((2, 2, 3), np.uint8))
