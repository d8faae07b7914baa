"""Alpha on disk, read back from the file."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
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


@pytest.mark.parametrize("chosen", ["jpg", "gif"])
def test_a_format_without_alpha_becomes_png_for_layers_alone(forge, ask, chosen):
    forge.option("samples_format", chosen)
    result = forge.run(ask(TOGETHER, preview=False), batch_size=3, save_images=True)
    layer, *others = forge.saved()[-3:]
    assert [path.suffix for path in (layer, *others)] == [".png", f".{chosen}", f".{chosen}"]
    saved = Image.open(layer)
    assert np.array_equal(np.asarray(saved), result.array())
    assert "LayerDiffusion method" in saved.info["parameters"]
    assert f"{chosen.upper()} hold no alpha" in str(result.info)
    assert "hold no alpha" not in str(forge.run(ask(TRANSPARENT)).info)  # nothing is saved


def infotext_of(path):
    from modules import images

    return images.read_info_from_image(Image.open(path))[0]


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_has_alpha_and_its_infotext(forge, ask, lossless):
    forge.option("samples_format", "webp")
    forge.option("webp_lossless", lossless)
    result = forge.run(ask(TRANSPARENT, preview=False), save_images=True)
    path = forge.saved()[-1]
    assert path.suffix == ".webp"
    saved = np.asarray(Image.open(path))
    assert np.array_equal(saved[..., 3], result.array()[..., 3])
    if lossless:
        assert np.array_equal(saved, result.array())
    assert "LayerDiffusion method" in infotext_of(path)
    assert "hold no alpha" not in str(result.info)


def test_other_peoples_pictures_are_saved_as_ever(fake, rgba, tmp_path):
    from modules import images

    for chosen in ("jpg", "webp"):
        path, _ = images.save_image(rgba(), tmp_path, "", 1, "a cat", chosen, info="a cat\nSteps: 2, Seed: 1")
        assert path.endswith(chosen)
        assert Image.open(path).mode == "RGB"


def test_the_save_button_keeps_alpha(fake, ask, tmp_path):
    """It saves what the gallery hands back: a picture without a mark, and the infotext beside it."""
    from modules import images

    made = fake.run(ask(TRANSPARENT, preview=False))
    picture = Image.fromarray(made.array())
    for chosen, expected in (("jpg", ".png"), ("webp", ".webp"), ("png", ".png")):
        path, _ = images.save_image(
            picture, tmp_path / chosen, "", seed=1, prompt="", extension=chosen, info=made.infotext
        )
        assert path.endswith(expected)
        assert np.array_equal(np.asarray(Image.open(path))[..., 3], made.array()[..., 3])


@pytest.mark.parametrize(("chosen", "expected"), [("jpg", ".png"), ("webp", ".webp"), ("png", ".png")])
def test_the_extras_tab_saves_with_alpha(fake, ask, tmp_path, chosen, expected):
    """Its own text is about upscaling; that of the picture goes along beside it."""
    from modules import images

    made = fake.run(ask(TRANSPARENT, preview=False))
    given = {"info": "Postprocess upscale by: 2", "pnginfo_section_name": "postprocessing"}
    given["existing_info"] = {"parameters": made.infotext}
    path, _ = images.save_image(Image.fromarray(made.array()), tmp_path, "", extension=chosen, **given)
    assert path.endswith(expected)
    assert np.array_equal(np.asarray(Image.open(path))[..., 3], made.array()[..., 3])


def test_what_formats_keep_is_found_by_writing_them(fake):
    from lib_layerdiffusion.hosts.forge.saving import keeps_alpha

    kept = {name: keeps_alpha(name) for name in ("png", "webp", "tiff", "jpg", "jpeg", "gif", "bmp", "no such format")}
    assert [name for name, keeps in kept.items() if keeps] == ["png", "webp", "tiff"]


def test_the_api_answers_where_the_host_cannot_encode(fake, ask):
    fake.option("samples_format", "avif")
    result = fake.run(ask(TOGETHER), batch_size=3)
    assert [image.format for image in result.images] == ["PNG"] * 4
    assert result.images[0].mode == "RGBA"


@pytest.fixture
def buttons(fake, monkeypatch):
    """The module of the "send to" buttons as Neo 2.26 has it: it hands on colour alone."""
    import modules

    from lib_layerdiffusion.hosts.forge import sending

    module = ModuleType("modules.infotext_utils")
    module.image_from_url_text = lambda x: x and x[0][0]

    def send_image_and_dimensions(x):
        image = x if isinstance(x, Image.Image) else module.image_from_url_text(x)
        return (image.convert("RGB"), *image.size) if image else (None, None, None)

    module.send_image_and_dimensions = send_image_and_dimensions
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(modules, "infotext_utils", module, raising=False)
    sending.keep_alpha()
    sending.keep_alpha()  # once is enough
    return module


def test_the_send_buttons_keep_alpha(buttons, rgba, rgb):
    layer, plain = rgba(96), rgb(64)
    for given in (layer, [(layer, None)]):
        sent, width, height = buttons.send_image_and_dimensions(given)
        assert sent.mode == "RGBA"
        assert np.array_equal(np.asarray(sent), np.asarray(layer))
        assert (width, height) == (96, 96)
    opaque = plain.convert("RGBA")
    opaque.putalpha(254)  # the host's own text
    for given in (plain, opaque):
        assert buttons.send_image_and_dimensions([(given, None)])[0].mode == "RGB"
    assert buttons.send_image_and_dimensions(None) == (None, None, None)


def test_grids_have_alpha_and_texts_a_background(fake, rgba, rgb):
    from modules import images

    layer, plain = rgba(), rgb()
    grid = images.image_grid([layer, plain], rows=1)
    assert np.array_equal(np.asarray(grid)[:, :64, 3], np.asarray(layer)[..., 3])
    assert (np.asarray(grid)[:, 64:, 3] == 255).all()
    shown = np.asarray(images.draw_grid_annotations(grid, 64, 64, [[], []], [[]]))[20:]
    clear = np.asarray(layer)[..., 3] == 0
    greys = shown[:, :64][clear]
    assert (greys.max(axis=1) == greys.min(axis=1)).all()  # the checkerboard, not the colour hidden there
    assert np.array_equal(shown[:, 64:], np.asarray(plain))
    assert images.image_grid([plain, plain]).getextrema()[-1] == (255, 255) or images.image_grid([plain]).mode == "RGB"


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
