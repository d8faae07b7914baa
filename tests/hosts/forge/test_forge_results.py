"""What an answer says of its pictures, going on from one by name, and all layers as one file beside the PNGs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.images.layerfile import read_ora

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
EVERYTHING = "(SD1.5) Generate Everything Together (need batch size 3)"
BG_TO_FG = "(SD1.5) From Background to Foreground (need batch size 2)"
ANSWER_KEY = "LayerDiffusion pictures"


def described(result) -> list[dict]:
    assert result.error is None, result.message
    return result.info["extra_generation_params"][ANSWER_KEY]


def test_the_answer_names_each_pictures_layer(forge, ask):
    result = forge.run(ask(EVERYTHING, output_origin=True, decode_passes=1), batch_size=6)
    pictures = described(result)
    assert [entry["index"] for entry in pictures] == list(range(len(result.images)))
    assert [entry["layer"] for entry in pictures[:6]] == ["foreground", "background", "blended"] * 2
    assert [entry["kind"] for entry in pictures[6:]] == ["preview"] * 2 + ["before decoding"] * 2
    assert [entry["alpha"] for entry in pictures] == [image.mode == "RGBA" for image in result.images]
    assert [entry["alpha"] for entry in pictures[:3]] == [True, False, False]
    assert ANSWER_KEY not in result.infotext


@pytest.mark.parametrize("saved", [True, False])
def test_a_result_is_used_again_by_its_name(forge, ask, saved):
    first = forge.run(ask(EVERYTHING, decode_passes=1), batch_size=3, save_images=saved)
    name = described(first)[1]["name"]
    assert name == forge.saved()[-2].name if saved else name.startswith("background-")
    sent = first.images[1].convert("RGBA")
    again, named, mapped = (
        forge.run(args, batch_size=2)
        for args in (
            ask(BG_TO_FG, decode_passes=1, background=np.asarray(sent).tolist()),
            ask(BG_TO_FG, decode_passes=1, background=name),
            [{"method": BG_TO_FG, "decode_passes": 1, "background": name}],
        )
    )
    assert again.same_as(named)
    assert again.same_as(mapped)


def test_a_saved_file_is_found_in_the_hosts_folders_after_a_restart(fake, ask, monkeypatch, tmp_path, rgb):
    from modules import shared

    (tmp_path / "2024-03-01").mkdir()
    rgb().save(tmp_path / "2024-03-01" / "00003-1.png")
    monkeypatch.setattr(shared.opts, "outdir_txt2img_samples", str(tmp_path), raising=False)
    named = fake.run(ask(BG_TO_FG, background="00003-1.png"))
    assert fake.run(ask(BG_TO_FG, background=rgb())).same_as(named)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("00099-5.png", 'no earlier result "00099-5.png"'),
        ("foreground-0123456789", "no earlier result"),
        ("notes.txt", "no earlier result"),
        ("..", "no earlier result"),
        ("../secret.png", "not base64"),
        ("/etc/passwd.png", "not base64"),
        ("C:secret.png", "not base64"),
    ],
)
def test_names_open_no_other_files(fake, ask, monkeypatch, tmp_path, rgb, name, complaint):
    from modules import shared

    (tmp_path / "out").mkdir()
    rgb().save(tmp_path / "secret.png")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    monkeypatch.setattr(shared.opts, "outdir_samples", str(tmp_path / "out"), raising=False)
    failed = fake.run(ask(BG_TO_FG, background=name))
    assert complaint in failed.message
    assert vars(failed.error)["status_code"] == 422


def test_memory_for_unsaved_results_is_bounded(fake, monkeypatch):
    from lib_layerdiffusion.errors import InputError
    from lib_layerdiffusion.hosts.forge import earlier
    from lib_layerdiffusion.methods import Layer

    monkeypatch.setattr(earlier, "MEMORY", 250)
    results = earlier.EarlierResults()
    names = [results.keep(Image.new("RGBA", (10, 10), (shade, 0, 0, 9)), Layer.FOREGROUND) for shade in range(4)]
    assert results.find(names[3])[0, 0].tolist() == [3, 0, 0, 9]
    assert results.find(names[2])[0, 0].tolist() == [2, 0, 0, 9]
    for gone in names[:2]:
        with pytest.raises(InputError, match="no earlier result"):
            results.find(gone)


@pytest.fixture
def layer_file(fake, monkeypatch):
    from modules import shared

    return lambda value: monkeypatch.setattr(shared.opts, "layerdiffusion_layer_file", value, raising=False)


def test_all_layers_are_saved_as_one_file_where_the_settings_page_says_so(fake, ask, layer_file):
    layer_file(".ora")
    result = fake.run(ask(EVERYTHING, decode_passes=1), batch_size=6, save_images=True)
    assert result.error is None
    assert not result.reports
    first = [Path(result.images[index].already_saved_as) for index in (0, 3)]
    for path, images in zip(first, (result.images[:3], result.images[3:6]), strict=True):
        stack = read_ora(path.with_suffix(".ora"))
        assert [layer.name for layer in stack.layers] == ["background", "blended", "foreground"]
        for layer, image in zip(stack.layers, (images[1], images[2], images[0]), strict=True):
            assert np.array_equal(layer.picture, np.asarray(image.convert("RGBA")))


def test_no_layer_file_without_saved_pictures_or_without_the_option(fake, ask, layer_file):
    before = fake.saved()
    layer_file(".ora")
    assert fake.run(ask(TRANSPARENT, decode_passes=1)).error is None
    assert fake.saved() == before
    for value in ("no layered file", "plaid"):
        layer_file(value)
        assert fake.run(ask(TRANSPARENT, decode_passes=1), save_images=True).error is None
    assert {path.suffix for path in set(fake.saved()) - set(before)} == {".png"}


def test_a_missing_writer_is_said_before_sampling(fake, ask, layer_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    layer_file(".psd")
    failed = fake.run(ask(TRANSPARENT), save_images=True)
    assert "pip install psd-tools" in failed.message


def test_a_layer_file_that_cannot_be_written_leaves_the_pictures(fake, ask, layer_file, monkeypatch):
    from lib_layerdiffusion.errors import LayerDiffusionError
    from lib_layerdiffusion.hosts.forge import results

    def fail(*_):
        raise LayerDiffusionError("The disk is full: free some space.")

    layer_file(".ora")
    monkeypatch.setattr(results, "save_layers", fail)
    result = fake.run(ask(TRANSPARENT, decode_passes=1), save_images=True)
    assert result.error is None
    assert not result.reports
    assert "The disk is full" in result.info["comments"]


@pytest.fixture
def bordered(fake, monkeypatch):
    """Decoded layers have 9 clear columns left and 5 clear rows below."""
    from lib_layerdiffusion.hosts.forge.models import ForgeModels

    decode = ForgeModels.decode

    def with_border(*args, **named):
        decoded = decode(*args, **named).clone()
        decoded[:, 3] = decoded[:, 3].clamp(min=0.5)
        decoded[:, 3, :, :9] = 0
        decoded[:, 3, -5:] = 0
        return decoded

    monkeypatch.setattr(ForgeModels, "decode", with_border)
    return fake


def test_layers_are_trimmed_and_keep_their_place_in_the_file(bordered, ask, layer_file):
    layer_file(".ora")
    whole = bordered.run(ask(EVERYTHING, decode_passes=1), batch_size=3, save_images=True)
    result = bordered.run(ask(EVERYTHING, decode_passes=1, trim=True), batch_size=3, save_images=True)
    assert [image.size for image in result.images] == [(55, 59), (64, 64), (64, 64), (55, 59)]
    assert np.array_equal(result.array(), whole.array()[:59, 9:])
    assert np.array_equal(result.array(3), whole.array(3)[:59, 9:])
    assert Image.open(result.images[0].already_saved_as).size == (55, 59)
    stack = read_ora(Path(result.images[0].already_saved_as).with_suffix(".ora"))
    assert (stack.width, stack.height) == (64, 64)
    top = stack.layers[-1]
    assert (top.name, top.left, top.top) == ("foreground", 9, 0)
    assert np.array_equal(top.picture, result.array())
    assert "LayerDiffusion trim: True" in result.infotext


def test_colour_and_mask_come_behind(bordered, ask):
    result = bordered.run(ask(TRANSPARENT, decode_passes=1, rgb_and_mask=True, output_origin=True))
    assert [entry["kind"] for entry in described(result)] == ["layer", "preview", "rgb", "mask", "before decoding"]
    assert [image.mode for image in result.images] == ["RGBA", "RGB", "RGB", "L", "RGB"]
    assert np.array_equal(result.array(3), result.array()[..., 3])
    seen = result.array(3) > 0
    assert np.array_equal(result.array(2)[seen], result.array()[seen][:, :3])
