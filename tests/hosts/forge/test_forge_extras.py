"""The host's Extras tab on pictures with alpha."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

INFOTEXT = "an apple\nSteps: 2, LayerDiffusion method: (SD1.5) Only Generate Transparent Image (Attention Injection)"
OPTION = "layerdiffusion_extras_alpha"


def scaled(image, factor=2.0):
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def filled(image):
    """The host's "crop to fit": scaled until it fills a size, the rest cut off on both sides."""
    return ImageOps.fit(image, (96, 64), Image.Resampling.LANCZOS)


class Script:
    """What a script of the tab does; it notes what it was given."""

    def __init__(self, change):
        self.change, self.seen = change, []

    def process(self, pp):
        self.seen.append(pp.image)
        pp.image = self.change(pp.image)


class Copies:
    def process(self, pp):
        pp.extra_images = [ImageOps.mirror(pp.image), ImageOps.flip(pp.image)]


@pytest.fixture
def extras(fake):
    """Sends a picture through scripts; returns all that comes out, and what is said about each."""
    from modules.scripts_postprocessing import PostprocessedImage, ScriptPostprocessingRunner

    def run(image, *scripts):
        pp = PostprocessedImage(image)
        ScriptPostprocessingRunner(scripts).run(pp, ())
        return [pp.image, *(extra.image for extra in pp.extra_images)], pp.info

    yield run
    fake.option(OPTION, None)


@pytest.fixture
def layer(rgba):
    picture = rgba(64)
    picture.info["parameters"] = INFOTEXT
    return picture


def to_rgb(image):
    return image.convert("RGB")


CHANGES = {
    "an upscaler": scaled,
    "a smaller size": lambda image: scaled(image, 0.5),
    "crop to fit": filled,
    "an odd factor": lambda image: scaled(image, 1.37),
}


@pytest.mark.parametrize("name", CHANGES)
def test_alpha_goes_beside_colour(extras, layer, name):
    script = Script(lambda image: to_rgb(CHANGES[name](image)))
    (result,), info = extras(layer, script)
    assert script.seen[0].mode == "RGB"
    assert script.seen[0].info["parameters"] == INFOTEXT
    expected = CHANGES[name](layer.getchannel("A"))
    assert result.mode == "RGBA"
    assert result.size == expected.size
    assert np.abs(np.asarray(result)[..., 3].astype(float) - np.asarray(expected)).mean() < 3
    assert not info
    seen = np.asarray(result)[..., 3] > 250
    colour = np.asarray(CHANGES[name](to_rgb(layer)))
    assert np.abs(np.asarray(result)[seen][:, :3].astype(float) - colour[seen]).mean() < 4


def test_colour_at_the_edge_is_not_that_of_what_is_clear(extras, rgba):
    """Scaled with its alpha apart, a red disc on hidden green has no green edge."""
    disc = np.array(rgba(64))
    disc[..., :3] = np.where(disc[..., 3:] > 0, (255, 0, 0), (0, 255, 0))
    picture = Image.fromarray(disc.astype(np.uint8))
    picture.info["parameters"] = INFOTEXT
    (result,), _ = extras(picture, Script(scaled))
    seen = np.asarray(result)[..., 3] > 0
    assert np.asarray(result)[seen][:, 1].max() < 24


def test_the_same_size_and_changes_keep_alpha_bit_by_bit(extras, layer):
    (result,), _ = extras(layer, Script(lambda image: ImageOps.posterize(image, 4)))
    assert np.array_equal(np.asarray(result)[..., 3], np.asarray(layer)[..., 3])
    (untouched,), _ = extras(layer)
    seen = np.asarray(layer)[..., 3] > 0
    assert np.array_equal(np.asarray(untouched)[seen], np.asarray(layer)[seen])


def test_mirrored_copies_get_mirrored_alpha(extras, rgb):
    values = np.dstack([np.asarray(rgb(64)), np.zeros((64, 64), np.uint8)])
    values[5:30, 3:20, 3] = 200
    picture = Image.fromarray(values)
    picture.info["parameters"] = INFOTEXT
    for result, turn in zip(extras(picture, Copies())[0], (lambda i: i, ImageOps.mirror, ImageOps.flip), strict=True):
        assert np.array_equal(np.asarray(result)[..., 3], np.asarray(turn(picture))[..., 3])


def test_a_script_that_cuts_out_keeps_its_own_alpha_within_ours(extras, layer):
    def cut(image):
        image = image.convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image

    (result,), _ = extras(layer, Script(cut))
    expected = np.asarray(cut(layer))[..., 3] / 255 * np.asarray(layer)[..., 3]
    assert np.abs(np.asarray(result)[..., 3] - expected).max() <= 1


def test_what_cannot_be_followed_is_said(extras, layer):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
    (result,), info = extras(layer, Script(lambda _: noise))
    assert result is noise
    assert "could not follow" in info["LayerDiffusion"]


def test_only_what_the_option_names(fake, extras, layer, rgba, rgb):
    script = Script(to_rgb)
    assert extras(rgba(), script)[0][0].mode == "RGB"  # made elsewhere
    assert script.seen[-1].mode == "RGBA"
    fake.option(OPTION, "every picture with alpha")
    assert extras(rgba(), script)[0][0].mode == "RGBA"
    assert extras(rgb(), script)[0][0].mode == "RGB"
    fake.option(OPTION, "no picture")
    assert extras(layer, script)[0][0].mode == "RGB"
    fake.option(OPTION, "nonsense")
    assert extras(layer, script)[0][0].mode == "RGBA"


def test_the_hosts_text_in_the_last_bit_is_no_alpha(extras, rgb):
    picture = rgb().convert("RGBA")
    picture.putpixel((0, 0), (1, 2, 3, 254))
    picture.info["parameters"] = INFOTEXT
    script = Script(to_rgb)
    assert extras(picture, script)[0][0].mode == "RGB"
