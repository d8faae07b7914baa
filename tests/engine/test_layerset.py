"""A generation's pictures as layers: what is in the set, in which order, and what the files' readers show of it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.engine.layerset import layer_set
from lib_layerdiffusion.engine.results import LayerPicture, Result
from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.images.arithmetic import composite
from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.settings.parsing import LayerSettings, ResizeMode
from tests.golden import rgba

HEIGHT, WIDTH = 24, 40
EVERYTHING = "(SD1.5) Generate Everything Together (need batch size 3)"


def solid(name: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    picture = rgba(name, height, width)
    picture[..., 3] = 255
    return picture


def settings_for(label: str, **values: object) -> LayerSettings:
    return LayerSettings.from_mapping({"method": label, **values})


@pytest.mark.parametrize("label", METHODS)
def test_every_method_gives_its_layers_from_the_background_upwards(label):
    method = METHODS[label]
    given = {layer.value: solid(f"given {layer}") for layer in method.inputs}
    made = {layer: solid(f"made {layer}") for layer in method.frames}
    layers = layer_set(made, settings_for(label, **given))
    names = [layer.name for layer in layers]
    assert names == [name for name in ("background", "blended", "foreground") if name in given or Layer(name) in made]
    for layer in layers:
        expected = made.get(Layer(layer.name), given.get(layer.name))
        np.testing.assert_array_equal(layer.picture, expected)
        hidden = layer.name == "blended" and {"background", "foreground"} <= set(names)
        assert (layer.visible, layer.left, layer.top) == (not hidden, 0, 0)


def test_what_was_given_is_brought_to_the_place_in_which_the_model_saw_it():
    given = np.zeros((40, 40, 4), np.uint8)
    given[:, 10:20] = (250, 10, 20, 255)
    made = {Layer.BLENDED: solid("made")}
    label = "(SDXL) From Foreground to Blending"
    cropped, filled = (
        layer_set(made, settings_for(label, foreground=given, resize_mode=mode))[1].picture
        for mode in (ResizeMode.CROP_AND_RESIZE, ResizeMode.RESIZE_AND_FILL)
    )
    assert cropped.shape == filled.shape == (HEIGHT, WIDTH, 4)
    # A square into 40 x 24: cropped above and below, or shrunk into the middle 24 columns.
    np.testing.assert_array_equal(cropped, given[8:32])
    assert (filled[:, 14:20] == (250, 10, 20, 255)).all()
    assert not filled[:, :14, 3].any()
    assert not filled[:, 20:, 3].any()


def test_a_chains_set_has_the_given_picture_at_the_size_of_the_made_ones():
    method = METHODS["(SDXL) From Background and Blending to Foreground"]
    background, blended = solid("background", 48, 80), solid("blended")
    settings = settings_for(method.label, background=background, blended=blended)
    made = {Layer.FOREGROUND: rgba("foreground", HEIGHT, WIDTH), Layer.BACKGROUND: background, Layer.BLENDED: blended}
    assert [layer.picture.shape for layer in layer_set(made, settings)] == [(HEIGHT, WIDTH, 4)] * 3


def test_nothing_made_is_nothing_to_save():
    with pytest.raises(InputError, match="generate a picture first"):
        layer_set({}, settings_for(EVERYTHING))


def everything() -> Result:
    layers = {Layer.FOREGROUND: rgba("fg", HEIGHT, WIDTH), Layer.BACKGROUND: solid("bg"), Layer.BLENDED: solid("bl")}
    images = {layer: Image.fromarray(picture) for layer, picture in layers.items()}
    images[Layer.BACKGROUND] = images[Layer.BACKGROUND].convert("RGB")
    images[Layer.BLENDED] = images[Layer.BLENDED].convert("RGB")
    return Result((LayerPicture(images, 7),), settings_for(EVERYTHING), 7, {})


def shown(picture: np.ndarray) -> np.ndarray:
    """What an opaque picture shows, as numbers that can be subtracted."""
    assert (picture[..., 3] == 255).all()
    return picture[..., :3].astype(int)


def test_an_ora_of_a_result_shows_foreground_over_background_and_keeps_the_blended_one(tmp_path: Path):
    result = everything()
    result.save_layers(tmp_path / "picture.ora")
    with zipfile.ZipFile(tmp_path / "picture.ora") as archive:
        root = ET.fromstring(archive.read("stack.xml"))
        found = [(layer.get("name"), layer.get("visibility")) for layer in root.findall("stack/layer")]
        merged = np.array(Image.open(io.BytesIO(archive.read("mergedimage.png"))))
    assert (root.get("w"), root.get("h")) == (str(WIDTH), str(HEIGHT))
    assert found == [("foreground", "visible"), ("blended", "hidden"), ("background", "visible")]
    layers = result.images[0].layers
    expected = layers[Layer.BACKGROUND].convert("RGBA")
    expected.alpha_composite(layers[Layer.FOREGROUND])
    assert np.abs(shown(merged) - shown(np.array(expected))).max() <= 1


def test_a_psd_of_a_result_does_the_same(tmp_path: Path):
    psd_tools = pytest.importorskip("psd_tools")
    result = everything()
    result.save_layers(tmp_path / "picture.psd")
    document = psd_tools.PSDImage.open(tmp_path / "picture.psd")
    found = [(layer.name, layer.is_visible(), layer.size) for layer in document]
    size = (WIDTH, HEIGHT)
    assert found == [("background", True, size), ("blended", False, size), ("foreground", True, size)]
    background, _, foreground = (np.array(layer.topil().convert("RGBA")) for layer in document)
    merged = np.array(document.topil().convert("RGBA"))
    assert np.abs(shown(merged) - shown(composite(foreground, background))).max() <= 1


def test_other_endings_are_refused(tmp_path: Path):
    with pytest.raises(LayerDiffusionError, match=r"\.ora or \.psd"):
        everything().save_layers(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
