"""Where a changed picture lies in the one that it was made of, and alpha brought there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lib_layerdiffusion.images.follow import (
    Placement,
    carry_alpha,
    find_mirroring,
    find_placement,
    mirrored,
    with_alpha_of,
    with_changes,
)


def scene(height=300, width=420, seed=0):
    """A picture of blobs, uint8 RGBA, whose alpha is a disc."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    colour = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[0:height, 0:width]
    alpha = np.clip((height * 0.35 - np.hypot(y - height / 2, x - width / 2)) * 10, 0, 255).astype(np.uint8)
    return np.dstack([colour, alpha])


def resized(picture, width, height):
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


def centre(picture, width, height):
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


CHANGES = {
    "twice": (lambda p: resized(p, 840, 600), Placement(840, 600)),
    "half": (lambda p: cv2.resize(p, (210, 150), interpolation=cv2.INTER_AREA), Placement(210, 150)),
    "cut": (lambda p: p[37 : 37 + 200, 91 : 91 + 260], Placement(420, 300, 91, 37)),
    "fill a square": (lambda p: centre(resized(p, 896, 640), 640, 640), Placement(896, 640, 128, 0)),
    "focal point": (lambda p: resized(p, 896, 640)[:, 30 : 30 + 640], Placement(896, 640, 30, 0)),
    "fit into a square": (
        lambda p: np.pad(resized(p, 420, 300), ((60, 60), (0, 0), (0, 0))),
        Placement(420, 300, 0, -60),
    ),
    "stretch": (lambda p: resized(p, 420, 600), Placement(420, 600)),
    "same": (lambda p: 255 - p, Placement(420, 300)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_placements_are_found(name):
    change, expected = CHANGES[name]
    before = scene()[..., :3]
    after = np.ascontiguousarray(change(before))
    assert find_placement(before, after) == expected


def test_other_pictures_have_no_place():
    assert find_placement(scene(seed=1)[..., :3], scene(200, 200, seed=2)[..., :3]) is None


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "same"])
def test_alpha_comes_along(name):
    change, placement = CHANGES[name]
    rgba = scene()
    after = np.ascontiguousarray(change(rgba[..., :3]))
    made = with_alpha_of(after, rgba, placement)
    assert np.array_equal(made[..., :3], after)
    expected = change(np.repeat(rgba[..., 3:], 3, axis=-1))[..., 0]
    assert np.abs(made[..., 3].astype(int) - expected).max() <= 3


def test_alpha_of_an_unchanged_size_is_the_very_same():
    rgba = scene()
    made = with_alpha_of(255 - rgba[..., :3], rgba, Placement(420, 300))
    assert np.array_equal(made[..., 3], rgba[..., 3])


def test_a_layer_takes_over_what_was_added():
    """Detail that only the changed picture has is in the layer's colour; where nothing was added it is the layer's."""
    layer = scene()
    opaque = layer[..., :3].astype(np.float32) / 255
    after = resized(layer[..., :3], 840, 600)
    plain = with_changes(layer, opaque, after, Placement(840, 600))
    inside = plain[..., 3] == 255
    assert np.abs(plain[..., :3].astype(int) - after)[inside].mean() < 1
    detailed = after.copy()
    detailed[300:310, 420:430] = 0
    made = with_changes(layer, opaque, detailed, Placement(840, 600))
    assert made[302:308, 422:428, :3].mean() < 6
    assert np.array_equal(made[..., 3], plain[..., 3])
    assert np.array_equal(made[:290], plain[:290])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("change", [lambda p: p, lambda p: resized(p, 840, 600), lambda p: 255 - p])
def test_mirrored_pictures_are_recognised(across, down, change):
    whole = scene()
    after = change(mirrored(whole[..., :3], across=across, down=down))
    inverted = np.array_equal(after, 255 - mirrored(whole[..., :3], across=across, down=down))
    expected = (False, False) if inverted else (across, down)  # an inverted one is not looked for in a mirror
    assert find_mirroring(whole[..., :3], after) == expected


def test_flat_and_cut_pictures_are_not_mirrored():
    flat = np.full((60, 60, 3), 90, np.uint8)
    assert find_mirroring(flat, flat) == (False, False)
    assert find_mirroring(scene()[..., :3], scene()[:150, :300, :3]) == (False, False)


def test_alpha_is_carried_into_a_mirrored_upscaled_picture():
    whole = scene()
    whole[..., 3] = 0
    whole[40:90, 30:200, 3] = 255
    after = resized(mirrored(whole[..., :3], across=True, down=False), 840, 600)
    carried = carry_alpha(whole, whole[..., :3], after)
    expected = resized(mirrored(whole[..., 3], across=True, down=False), 840, 600)
    assert np.abs(carried[..., 3].astype(int) - expected).mean() < 1
    assert np.array_equal(carried[..., :3], after)
    assert carry_alpha(whole, whole[..., :3], scene(200, 200, seed=5)[..., :3]) is None
