"""Picture arithmetic against the reference's results and against its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import arithmetic as images
from lib_layerdiffusion.images.arithmetic import ResizeMode
from tests.golden import expected, rgba, thinned

NAMES = {
    ResizeMode.JUST_RESIZE: "resize",
    ResizeMode.CROP_AND_RESIZE: "crop_and_resize",
    ResizeMode.RESIZE_AND_FILL: "resize_and_fill",
}


def difference(actual: np.ndarray, name: str) -> float:
    stored = expected(name)
    return float((thinned(torch.from_numpy(actual), stored) - stored).abs().max())


@pytest.mark.parametrize(("name", "size"), [("soft", (100, 75)), ("tall", (240, 31))])
def test_pad_rgb_equals_the_reference(name, size):
    assert difference(images.pad_rgb(rgba(f"public/pad/{name}", *size)), f"pad_rgb/{name}") <= 1e-5


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (192, 320)])
@pytest.mark.parametrize("mode", ResizeMode)
def test_condition_image_equals_the_reference(mode, size):
    result = images.condition_image(rgba("public/resize", 90, 140), mode, *size)
    assert result.shape == (*size, 3)
    assert difference(result, f"condition_image/{NAMES[mode]}_{size[0]}x{size[1]}") <= 1e-5


@pytest.mark.parametrize("alpha", [None, 255, 0])
@pytest.mark.parametrize("size", [(33, 57), (1, 5), (5, 1)])
def test_a_condition_picture_is_flattened_on_mid_grey(alpha, size):
    picture = rgba("flattened", *size)[::-1]  # its rows lie backwards in memory
    if alpha is not None:
        picture[..., 3] = alpha
    given = picture.copy()
    values = picture.astype(np.float32) / np.float32(255)
    half = np.float32(0.5)
    wanted = half + (values[..., :3] - half) * values[..., 3:]
    np.testing.assert_array_equal(images.flatten_for_condition(picture), wanted)
    np.testing.assert_array_equal(picture, given)


def test_pad_rgb_keeps_opaque_pixels_and_survives_full_transparency():
    picture = rgba("opaque", 40, 24)
    padded = images.pad_rgb(picture)
    solid = picture[..., 3] == 255
    np.testing.assert_allclose(padded[solid], picture[..., :3][solid] / 255, atol=1e-6)
    picture[..., 3] = 0
    assert not images.pad_rgb(picture).any()


def test_rounding_is_to_the_nearest_level():
    levels = np.arange(256, dtype=np.uint8)
    assert (images.to_uint8(images.to_float(levels)) == levels).all()
    assert images.to_uint8(np.array([0.5 / 255 + 1e-4, 2.0, -1.0])).tolist() == [1, 255, 0]


@pytest.mark.parametrize("linear", [False, True])
def test_compositing_ends(linear):
    front, back = rgba("front", 16, 16), rgba("back", 16, 16)
    clear, solid = front.copy(), front.copy()
    clear[..., 3], solid[..., 3] = 0, 255
    visible = back[..., 3:] > 0
    result = images.composite(clear, back, linear=linear)
    assert (result[..., 3] == back[..., 3]).all()
    assert np.abs((result.astype(int) - back)[..., :3] * visible).max() <= 1
    assert np.abs(images.composite(solid, back, linear=linear).astype(int) - solid).max() <= 1


def test_preview_shows_the_board_only_through_transparency():
    picture = np.zeros((128, 128, 4), np.uint8)
    picture[:, :64] = (10, 200, 30, 255)
    shown = images.preview(picture)
    assert (shown[:, :64] == (10, 200, 30)).all()
    assert {tuple(value) for value in shown[:, 64:].reshape(-1, 3).tolist()} == {(115,) * 3, (140,) * 3}
    assert (images.preview(picture, "light")[:, 64:] == 255).all()


def test_unusable_pictures_are_refused():
    with pytest.raises(InputError, match="RGBA"):
        images.pad_rgb(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="larger"):
        images.condition_image(np.zeros((1, 9, 4), np.uint8), ResizeMode.CROP_AND_RESIZE, 64, 64)
    with pytest.raises(InputError, match="one size"):
        images.composite(rgba("a", 8, 8), rgba("b", 8, 16))
