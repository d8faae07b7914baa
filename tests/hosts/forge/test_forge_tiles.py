"""SD upscale with layers: what the script sees of the host's pictures, and how tiles are joined."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def grid_of(picture, tile, overlap):
    """The host's layout: evenly spread tiles, the last one at the end."""
    height, width = picture.shape[:2]

    def starts(whole):
        count = -(-(whole - overlap) // (tile - overlap))
        step = (whole - tile) / (count - 1) if count > 1 else 0
        return [min(int(number * step), whole - tile) for number in range(count)]

    def cut(top, left):
        return Image.fromarray(picture[top : top + tile, left : left + tile])

    rows = [[top, tile, [[left, tile, cut(top, left)] for left in starts(width)]] for top in starts(height)]
    return SimpleNamespace(tiles=rows, tile_w=tile, tile_h=tile, image_w=width, image_h=height, overlap=overlap)


@pytest.fixture
def picture(rgba):
    return np.array(rgba(160))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("overlap", [0, 16])
def test_unchanged_tiles_make_the_same_picture(picture, overlap):
    from lib_layerdiffusion.hosts.forge.tiles import join_tiles

    joined = np.asarray(join_tiles(grid_of(picture, 64, overlap)))
    assert joined.shape == picture.shape
    assert np.array_equal(joined[..., 3], picture[..., 3])
    seen = picture[..., 3] > 0
    assert np.abs(joined[seen].astype(int) - picture[seen]).max() <= 1


@pytest.mark.usefixtures("fake")
def test_tiles_fade_without_hidden_colour():
    """A clear tile beside a red one: halfway, alpha is half and the colour still red."""
    from lib_layerdiffusion.hosts.forge.tiles import join_tiles

    clear, red = (Image.new("RGBA", (64, 64), colour) for colour in ((0, 255, 0, 0), (255, 0, 0, 255)))
    tiles = [[0, 64, [[0, 64, clear], [48, 64, red]]]]
    grid = SimpleNamespace(tiles=tiles, image_w=112, image_h=64, overlap=16)
    joined = np.asarray(join_tiles(grid))
    assert joined[0, 56].tolist() == [255, 0, 0, 128]
    assert joined[0, 40, 3] == 0
    assert joined[0, 80].tolist() == [255, 0, 0, 255]


@pytest.mark.usefixtures("fake")
def test_the_script_upscales_colour_and_the_alpha_comes_back(picture):
    from modules import images as own

    from lib_layerdiffusion.hosts.forge.tiles import TileImages

    seen = []
    host = SimpleNamespace(
        flatten=own.flatten, split_grid=lambda image, **_: seen.append(image), resize_image="its own"
    )
    images = TileImages(host)
    flat = images.flatten(Image.fromarray(picture), "#ffffff")
    assert flat.mode == "RGB"
    opaque = picture[..., 3] == 255
    assert np.array_equal(np.asarray(flat)[opaque], picture[opaque][:, :3])
    images.split_grid(flat.resize((320, 320)), tile_w=64)
    assert seen[0].mode == "RGBA"
    assert seen[0].size == (320, 320)
    alpha = np.asarray(seen[0])[..., 3].astype(float)
    assert abs(alpha.mean() - picture[..., 3].mean()) < 2
    assert images.resize_image == "its own"
    plain = TileImages(host)
    assert plain.flatten(Image.fromarray(picture[..., :3]), "#ffffff").mode == "RGB"
    plain.split_grid(flat)
    assert seen[1] is flat


def test_the_script_is_changed_once_and_only_where_layers_are_on(fake, ask, monkeypatch, rgba):
    from modules import images as own
    from modules import scripts

    from lib_layerdiffusion.hosts.forge import tiles

    seen = []

    class Script:
        def run(self, _p):
            seen.append(type(module.images).__name__)
            return SimpleNamespace(images=[rgba()], extra_images=[])

    module = SimpleNamespace(images=own)
    data = SimpleNamespace(path="/host/scripts/sd_upscale.py", script_class=Script, module=module)
    monkeypatch.setattr(scripts, "scripts_data", [data], raising=False)
    ours = SimpleNamespace(args_from=1, args_to=2)
    for _ in range(2):
        tiles.add_alpha(lambda script: script is ours)
    for given in ({"enabled": False}, {"method": "(SD1.5) Only Generate Transparent Image (Attention Injection)"}):
        runner = SimpleNamespace(alwayson_scripts=[ours], selectable_scripts=[])
        answer = Script().run(SimpleNamespace(scripts=runner, script_args=[0, given]))
    assert seen == ["module", "TileImages"]
    assert [image.mode for image in answer.extra_images] == ["RGB"]
    assert module.images is own
