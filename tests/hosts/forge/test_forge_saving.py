"""Alpha on disk, read back from the file."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"


@pytest.mark.parametrize("mode", ["Alpha", "RGB", "None"])
def test_png_keeps_alpha_whatever_the_stealth_option(forge, ask, mode):
    forge.option("stealth_pnginfo_option", mode)
    result = forge.run(ask(TRANSPARENT), save_images=True)
    assert result.error is None
    saved = Image.open(forge.saved()[-1])
    assert saved.mode == "RGBA"
    assert np.array_equal(np.asarray(saved), result.array())
    assert saved.getextrema()[3][0] < 250
    assert "LayerDiffusion method" in saved.info["parameters"]


@pytest.mark.parametrize("chosen", ["jpg", "webp"])
def test_a_format_without_alpha_gets_a_png_beside_it(forge, ask, chosen):
    forge.option("samples_format", chosen)
    result = forge.run(ask(TRANSPARENT), save_images=True)
    layer, flat = forge.saved()[-2:]
    assert layer.suffix == ".png"
    assert flat.suffix == f".{chosen}"
    assert Image.open(flat).mode == "RGB"
    saved = Image.open(layer)
    assert np.array_equal(np.asarray(saved), result.array())
    assert "LayerDiffusion method" in saved.info["parameters"]


@pytest.mark.parametrize("chosen", ["png", "jpg", "webp"])
def test_the_api_answers_with_alpha_whatever_the_format(forge, ask, chosen):
    forge.option("samples_format", chosen)
    result = forge.run(ask(TRANSPARENT))
    assert [image.mode for image in result.images] == ["RGBA", "RGB"]
    assert [image.format for image in result.images] == ["PNG", {"jpg": "JPEG"}.get(chosen, chosen.upper())]
    assert forge.run(None).images[0].format == result.images[1].format  # plain pictures are as chosen


def test_the_gallery_shows_the_png_where_another_format_is_chosen(fake, ask):
    fake.option("samples_format", "jpg")
    result = fake.run(ask(TRANSPARENT), save_images=True)
    assert result.images[0].already_saved_as.endswith(".png")
    assert np.array_equal(np.asarray(Image.open(result.images[0].already_saved_as)), result.array())


def test_the_stealth_option_still_holds_for_plain_pictures(forge, ask):
    assert forge.run(ask(TRANSPARENT), save_images=True).error is None
    forge.run(None, save_images=True)
    saved = Image.open(forge.saved()[-1])
    if find_spec("modules.stealth_infotext") is None:
        assert saved.mode == "RGB"
        return
    assert saved.mode == "RGBA"
    assert saved.getextrema()[3][0] >= 254


def test_nothing_is_written_where_saving_is_off(forge, ask):
    before = forge.saved()
    forge.option("samples_format", "jpg")
    assert forge.run(ask(TRANSPARENT)).error is None
    assert forge.saved() == before
