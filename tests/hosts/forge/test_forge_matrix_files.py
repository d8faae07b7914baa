"""Rows of docs/alpha.md about finished pictures: the Extras tab, file formats, buttons below the gallery, grids.

pytest tests/hosts/forge/test_forge_matrix_files.py --forge-root FORGE --alpha-matrix FILE
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.errors import LayerDiffusionError
from tests.hosts.forge import host_scripts
from tests.hosts.forge.host_scripts import NEURAL
from tests.hosts.forge.matrix_table import FRAMES, METHODS_OF, ONE
from tests.hosts.forge.test_forge_matrix import modes


def has_transparency(image):
    """The host's own text may stand in the last bit of an opaque picture's alpha."""
    return image.mode == "RGBA" and image.getextrema()[3][0] < 254


WITH_A_PICTURE = "(SD1.5) From Foreground to Background (need batch size 2)"
KEPT = "colour changed, alpha beside it at the new size"


@pytest.fixture
def layer(real, rgba):
    """A picture as this extension makes them, with its infotext."""
    picture = rgba(96)
    picture.info["parameters"] = f"an apple\nSteps: 2, Seed: 1, LayerDiffusion method: {METHODS_OF[ONE]}"
    return picture


def mean_difference(found, expected):
    return np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean()


UPSCALERS = {
    "None": {"upscaler_1": "None"},
    "Lanczos": {"upscaler_1": "Lanczos", "upscaling_resize": 2.5},
    NEURAL: {"upscaler_1": NEURAL, "upscaling_resize": 4},
    "a second upscaler mixed in": {
        "upscaler_1": NEURAL,
        "upscaler_2": "any",
        "extras_upscaler_2_visibility": 0.5,
    },
    "Scale to with Crop to fit": {
        "resize_mode": 1,
        "upscaler_1": "any",
        "upscaling_resize_w": 192,
        "upscaling_resize_h": 128,
        "upscaling_crop": True,
    },
}


@pytest.mark.parametrize("name", UPSCALERS)
def test_the_extras_tab(real, row, layer, name):
    meant = {NEURAL: real.add_upscaler(), "any": real.pixel_upscaler()}
    body = {key: meant.get(value, value) for key, value in UPSCALERS[name].items()}
    (result,), said = real.extras([layer], **body)
    assert result.mode == "RGBA"
    alpha, size = layer.getchannel("A"), result.size
    if name == "None":
        assert size == (96, 96)
    elif "Crop" in name:
        assert size == (192, 128)
        alpha = alpha.resize((192, 192), Image.Resampling.BICUBIC).crop((0, 32, 192, 160))
    else:
        assert size[0] > 96
        alpha = alpha.resize(size, Image.Resampling.BICUBIC)
    assert mean_difference(result.getchannel("A"), alpha) < 2
    assert result.info["parameters"] == layer.info["parameters"]
    assert "opaque" not in said
    row(
        f"Extras tab: {name}", "a picture made with LayerDiffusion", KEPT if name != "None" else "the picture as it was"
    )


def test_a_batch_in_the_extras_tab(real, row, layer, rgba, rgb):
    results, _ = real.extras([layer, rgba(96), rgb(96)], batch=True, upscaler_1=real.add_upscaler(), upscaling_resize=2)
    assert [image.mode for image in results] == ["RGBA", "RGB", "RGB"]
    row("Extras tab: a batch", "made here; made elsewhere; opaque", "alpha; as the host has it; opaque")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_the_hosts_own_upscale_after_sampling(real, ask, row, method_of, technique):
    """Upscale, switched on for the main tabs on the host's settings page."""
    args, size = ask(method_of(technique), preview=False, decode_passes=1), 3 if technique == FRAMES else 1
    plain = real.run(args, batch_size=size)
    result = real.run(args, batch_size=size, also=host_scripts.own_upscale(real.pixel_upscaler(), 2.0))
    assert modes(result) == ["RGBA", *["RGB"] * (size - 1)]
    assert {image.size for image in result.images} == {(128, 128)}
    expected = plain.images[0].getchannel("A").resize((128, 128), Image.Resampling.LANCZOS)
    assert mean_difference(result.images[0].getchannel("A"), expected) < 4
    row("the host's own Upscale on the main tabs", technique, "the layers at the new size, the first with alpha")


FORMATS = {"png": "png", "webp": "webp", "avif": "avif", "jxl": "jxl", "heif": "heif", "jpg": "png", "gif": "png"}
"""Chosen -> in which a picture with alpha is saved."""
LOSSY = {"avif", "heif"}
"""Formats whose alpha is lossy like their colour at the host's quality of 80."""
WITHOUT_TEXT = {"heif"}
"""Into which hosts write no infotext, of no picture."""


@pytest.mark.parametrize("chosen", FORMATS)
def test_file_formats(real, ask, row, chosen):
    from modules import images

    if f".{chosen}" not in Image.registered_extensions():
        pytest.skip(f"this host writes no {chosen}")
    real.option("samples_format", chosen)
    result = real.run(ask(METHODS_OF[FRAMES], decode_passes=1), batch_size=3, save_images=True)
    assert modes(result)[0] == "RGBA"
    assert not any(has_transparency(image) for image in result.images[1:])
    saved = real.saved()[-3:]
    assert [path.suffix[1:] for path in saved] == [FORMATS[chosen], chosen, chosen]
    with Image.open(saved[0]) as image:
        *colour, alpha = (mean_difference(*pair) for pair in zip(image.split(), result.images[0].split(), strict=True))
        assert alpha <= (max(colour) if chosen in LOSSY else 0)
        if chosen not in WITHOUT_TEXT:
            assert "LayerDiffusion method" in images.read_info_from_image(image)[0]
    said = "hold no alpha" in str(result.info)
    assert said == (FORMATS[chosen] != chosen)
    outcome = (
        "files and answer with alpha" if not said else "the layer becomes PNG, which the page says; the rest stays"
    )
    row(f"{chosen} as the format of files", FRAMES, outcome)


@pytest.mark.parametrize("chosen", ["png", "webp", "jpg"])
def test_the_save_and_zip_buttons(real, ask, row, chosen, monkeypatch):
    from modules import shared, ui_common

    result = real.run(ask(METHODS_OF[ONE], preview=False, decode_passes=1))
    monkeypatch.setitem(shared.opts.data, "samples_format", chosen)
    info = json.dumps({**result.info, "index_of_first_image": 0})
    picture = Image.fromarray(result.array())  # as the gallery hands it back
    ui_common.save_files(info, [(picture, None)], True, -1)
    files = sorted(Path(shared.opts.outdir_save).rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)
    archive = next(path for path in reversed(files) if path.suffix == ".zip")
    with zipfile.ZipFile(archive) as content:
        (name,) = content.namelist()
        with Image.open(content.open(name)) as image:
            assert np.array_equal(np.asarray(image)[..., 3], result.array()[..., 3])
    assert name.endswith(FORMATS[chosen])
    row(f"the Save and Zip buttons, format {chosen}", ONE, "a file with alpha, and the same in the archive")


def test_the_send_buttons(real, row, rgba):
    """What stands behind them, as the gallery calls it."""
    infotext_utils = pytest.importorskip("modules.infotext_utils")
    picture = rgba(real.side)
    sent, *_ = infotext_utils.send_image_and_dimensions([(picture, None)])
    assert sent.mode == "RGBA"
    assert np.array_equal(np.asarray(sent), np.asarray(picture))
    row("sent to another tab", ONE, "the picture goes on with its alpha")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_grids(real, ask, row, method_of, technique):
    size = 3 if technique == FRAMES else 2
    given = {"override_settings": {"return_grid": True, "grid_save": True, "n_rows": 1}, "save_images": True}
    result = real.run(ask(method_of(technique), preview=False, decode_passes=1), batch_size=size, **given)
    grid, first = result.images[:2]
    assert grid.size == (size * real.side, real.side)
    assert np.array_equal(np.asarray(grid.convert("RGBA"))[:, : real.side], np.asarray(first))
    saved = next(path for path in reversed(real.saved()) if "grid" in path.name)
    assert np.array_equal(np.asarray(Image.open(saved).convert("RGBA")), np.asarray(grid.convert("RGBA")))
    entries = result.info["extra_generation_params"]["LayerDiffusion pictures"]
    assert entries[0]["index"] == 1
    row("a grid in the answer and on disk", technique, "with alpha where its pictures have it")


def test_what_goes_wrong_in_a_cell(real, ask, row, rgba):
    """The second method needs a picture that is not there."""
    axis = host_scripts.axis_number("[LayerDiffusion] Method")
    script = host_scripts.plot(axis, listed=[METHODS_OF[ONE], WITH_A_PICTURE], legend=True)
    result = real.run(ask(METHODS_OF[ONE], preview=False, decode_passes=1), script=script)
    assert modes(result)[1] == "RGBA"
    (notice,) = result.info["extra_generation_params"]["LayerDiffusion notices"]
    assert "1 of the plot's cells are empty" in notice
    row("X/Y/Z plot with a cell that fails", ONE, f"said below the plot: {notice}")


def test_the_first_cell_fails(real, ask, row):
    """The plot makes its infotext of the first cell, so it ends there."""
    axis = host_scripts.axis_number("[LayerDiffusion] Method")
    result = real.run(ask(METHODS_OF[ONE]), script=host_scripts.plot(axis, listed=[WITH_A_PICTURE], legend=True))
    assert isinstance(result.error, LayerDiffusionError)
    row("X/Y/Z plot whose first cell fails", ONE, f"ends with the sentence: {result.message}")
