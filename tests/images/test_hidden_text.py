"""An opaque picture in whose alpha a host has hidden its infotext is opaque."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.images.files import load_picture
from lib_layerdiffusion.images.opacity import has_transparency, is_opaque, opaque_warning, without_hidden_text
from lib_layerdiffusion.images.reading import read_picture


@pytest.fixture
def marked():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (24, 32, 4)).astype(np.uint8)
    picture[..., 3] = 254 + rng.integers(0, 2, (24, 32))
    return picture


def forms(picture, folder):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    (folder / "marked.png").write_bytes(buffer.getvalue())
    read = [read_picture(value, "init") for value in (picture, Image.fromarray(picture), buffer.getvalue())]
    return [*read, load_picture(folder / "marked.png", "init")]


def test_it_is_read_as_opaque_in_every_form(marked, tmp_path):
    for read in forms(marked, tmp_path):
        assert (read[..., 3] == 255).all()
        assert np.array_equal(read[..., :3], marked[..., :3])
    assert not has_transparency(marked)
    assert is_opaque(marked)
    assert opaque_warning(marked)


def test_one_pixel_that_is_seen_through_is_enough(marked, tmp_path):
    marked[3, 4, 3] = 253
    for read in forms(marked, tmp_path):
        assert np.array_equal(read, marked)
    assert has_transparency(marked)
    assert without_hidden_text(marked) is marked
