"""Which files are opened, what they may cost, and what their values mean."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest
from files_by_hand import (
    ADOBE_RGB,
    EPS,
    EPS_WITH_PREVIEW,
    GREY,
    GREY_ALPHA,
    GREY_GAMMA_1,
    PALETTE,
    RGB,
    RGBA,
    chunk,
    icc,
    png,
)
from PIL import Image, ImageCms

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import decoding
from lib_layerdiffusion.images.compose import Layer
from lib_layerdiffusion.images.files import infotext_of, load_picture
from lib_layerdiffusion.images.layerfile import ora_bytes, read_ora
from lib_layerdiffusion.images.reading import MAX_BYTES, read_picture


def saved(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


class TestNoOtherProgramIsStarted:
    @pytest.fixture
    def started(self, monkeypatch):
        calls = []

        def start(*args, **kwargs):
            calls.append(args)
            raise OSError("no program here")

        monkeypatch.setattr(subprocess, "Popen", start)
        monkeypatch.setattr(os, "system", start)
        from PIL import EpsImagePlugin

        monkeypatch.setattr(EpsImagePlugin, "has_ghostscript", lambda: True, raising=False)
        return calls

    @pytest.mark.parametrize("content", [EPS, b"%!PS\n" + EPS, EPS_WITH_PREVIEW])
    def test_by_a_picture_that_was_sent(self, started, tmp_path, content):
        path = tmp_path / "picture.png"
        path.write_bytes(content)
        reads = (lambda: read_picture(content, "x"), lambda: load_picture(path, "x"), lambda: infotext_of(path))
        for read in reads:
            with pytest.raises(InputError, match="PNG, JPEG, WebP"):
                read()
        assert started == []

    def test_nothing_in_the_package_opens_a_picture_of_any_format(self):
        from tests.test_architecture import FILES

        callers = [name for name, path in FILES.items() if "Image.open(" in path.read_text(encoding="utf-8")]
        for name in callers:
            text = FILES[name].read_text(encoding="utf-8")
            assert text.count("Image.open(") == text.count("formats="), name

    def test_every_format_of_the_list_is_decoded_inside_this_process(self):
        assert not set(decoding.FORMATS) & {"EPS", "WMF", "PDF", "FPX", "MIC", "GBR", "BUFR", "GRIB", "HDF5", "MPEG"}
        image = Image.new("RGB", (4, 4), (9, 8, 7))
        for name in sorted({*decoding.formats()} - {"JPEG", "MPO", "WEBP", "AVIF", "GIF"}):
            if name in Image.SAVE:
                content = saved(image.resize((16, 16)), name)
                assert tuple(read_picture(content, "init")[0, 0]) == (9, 8, 7, 255)


class TestLimitsBeforeReading:
    def test_a_long_file_is_not_read(self, tmp_path):
        path = tmp_path / "long.png"
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)  # takes no room on the disk
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="more than 245 MiB"):
                load_picture(path, "init")
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_neither_is_long_base64_or_a_long_list(self, monkeypatch):
        monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
        monkeypatch.setattr(np, "asarray", None)
        for value in ("A" * 2000, b"\x89PNG" + bytes(1000), bytearray(1001), memoryview(bytes(1001))):
            with pytest.raises(InputError, match="file of more than"):
                read_picture(value, "init")
        row = [0] * 8001
        with pytest.raises(InputError, match="megapixels"):
            read_picture([row] * 8001, "init")

    @pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "."])
    def test_what_is_no_file_is_not_read(self, place):
        with pytest.raises(InputError, match="is no file"):
            load_picture(place, "init")

    def test_a_pipe_does_not_block(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="is no file"):
            load_picture(tmp_path / "pipe", "init")

    def test_a_name_that_no_file_can_have(self):
        for name in ("a\0b.png", "x" * 5000, "\ud800.png"):
            with pytest.raises(InputError, match="cannot be read"):
                load_picture(name, "init")


class TestColoursAreThoseOfTheProfile:
    @pytest.mark.parametrize("colour", [(0, 200, 50), (255, 255, 255), (0, 0, 0), (130, 130, 130)])
    @pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
    def test_adobe_rgb(self, kind, colour):
        expected = adobe_to_srgb(colour)
        image = Image.new("RGB", (4, 3), colour).convert(kind, palette=Image.Palette.ADAPTIVE)
        if kind == "RGBA":
            image.putalpha(77)
        picture = read_picture(saved(image, icc_profile=ADOBE_RGB), "init")
        assert np.abs(picture[1, 1, :3].astype(int) - expected).max() <= 1
        assert picture[1, 1, 3] == (77 if kind == "RGBA" else 255)

    def test_the_published_figure(self):
        picture = read_picture(saved(Image.new("RGB", (4, 3), (0, 200, 50)), icc_profile=ADOBE_RGB), "init")
        assert np.abs(picture[0, 0, :3].astype(int) - (0, 201, 12)).max() <= 1

    def test_the_same_in_a_jpeg_and_in_an_image_in_memory(self):
        image = Image.new("RGB", (16, 16), (0, 200, 50))
        content = saved(image, "JPEG", quality=100, subsampling=0, icc_profile=ADOBE_RGB)
        for value in (content, Image.open(io.BytesIO(content))):
            assert np.abs(read_picture(value, "init")[8, 8, :3].astype(int) - (0, 201, 12)).max() <= 3

    def test_grey(self):
        picture = read_picture(saved(Image.new("L", (4, 3), 55), icc_profile=GREY_GAMMA_1), "init")
        linear = 55 / 255
        expected = round(255 * (1.055 * linear ** (1 / 2.4) - 0.055))
        assert np.abs(picture[0, 0, :3].astype(int) - expected).max() <= 1

    def test_srgb_itself_changes_no_value(self):
        random = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        assert np.array_equal(read_picture(saved(Image.fromarray(random), icc_profile=profile), "init"), random)

    @pytest.mark.parametrize("profile", [b"nonsense", ADOBE_RGB[:100], ADOBE_RGB[:200], GREY_GAMMA_1])
    def test_a_profile_that_says_nothing_about_these_colours_is_left_out(self, profile):
        image = Image.new("RGB", (4, 3), (0, 200, 50))
        assert tuple(read_picture(saved(image, icc_profile=profile), "init")[0, 0]) == (0, 200, 50, 255)

    def test_lab(self):
        lab = ImageCms.applyTransform(
            Image.new("RGB", (4, 4), (200, 100, 50)),
            ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
        )
        assert np.abs(read_picture(lab, "init")[0, 0].astype(int) - (200, 100, 50, 255)).max() <= 2

    def test_a_cmyk_profile_is_asked(self, monkeypatch):
        asked = []
        monkeypatch.setattr(decoding, "_profile", lambda content, mode: asked.append((content, mode)))
        read_picture(saved(Image.new("CMYK", (4, 4)), "TIFF", icc_profile=b"press"), "init")
        assert asked == [(b"press", "CMYK")]


def adobe_to_srgb(colour):
    """By the two specifications' own formulas."""
    linear = (np.array(colour) / 255) ** (563 / 256)
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    from_xyz = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    light = np.clip(from_xyz @ to_xyz @ linear, 0, 1)
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


class TestTransparentColours:
    """tRNS of every kind of PNG (PNG specification, 11.3.2.1)."""

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_grey(self, depth):
        top = 2**depth - 1
        content = png([[0, top, 0, top]] * 2, 4, depth, GREY, tRNS=struct.pack(">H", top))
        picture = read_picture(content, "init")
        assert picture[0].tolist() == [[0, 0, 0, 255], [255, 255, 255, 0]] * 2

    def test_grey_of_16_bits_by_its_whole_value(self):
        content = png([[0x8080, 0x8081, 0x8080, 0]] * 2, 4, 16, GREY, tRNS=struct.pack(">H", 0x8080))
        assert read_picture(content, "init")[0, :, 3].tolist() == [0, 255, 0, 255]

    @pytest.mark.parametrize("depth", [8, 16])
    def test_colours(self, depth):
        key = (200, 100, 50) if depth == 8 else (200 * 257, 100 * 257, 50 * 257)
        content = png([[*key, 0, 0, 0]] * 2, 2, depth, RGB, tRNS=struct.pack(">HHH", *key))
        assert read_picture(content, "init")[0].tolist() == [[200, 100, 50, 0], [0, 0, 0, 255]]

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_palettes(self, depth):
        content = png([[0, 1]] * 2, 2, depth, PALETTE, PLTE=bytes([9, 8, 7, 200, 100, 50]), tRNS=bytes([128, 0]))
        assert read_picture(content, "init")[0].tolist() == [[9, 8, 7, 128], [200, 100, 50, 0]]

    @pytest.mark.parametrize("depth", [8, 16])
    def test_with_alpha_there_is_nothing_else(self, depth):
        factor = 1 if depth == 8 else 257
        grey = png([[40 * factor, 7 * factor] * 2] * 2, 2, depth, GREY_ALPHA)
        colour = png([[value * factor for value in (1, 2, 3, 4)] * 2] * 2, 2, depth, RGBA)
        assert read_picture(grey, "init")[0, 0].tolist() == [40, 40, 40, 7]
        assert read_picture(colour, "init")[0, 0].tolist() == [1, 2, 3, 4]


class TestLayeredFilesThatLie:
    def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(self):
        import zipfile

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("mimetype", b"\0" * 50_000_000)
        with pytest.raises(InputError, match="cannot be read"):
            read_ora(buffer.getvalue())

    def test_a_layer_of_one_pixel_is_a_layer(self):
        layers = [Layer("a", np.full((1, 1, 4), 9, np.uint8)), Layer("b", np.full((4, 4, 4), 7, np.uint8))]
        assert read_ora(ora_bytes(layers)).layers[0].picture.tolist() == [[[9, 9, 9, 9]]]


def test_a_broken_chunk_is_a_sentence():
    content = png([[0, 0]] * 2, 2, 8, GREY)
    for name in (b"iCCP", b"tRNS", b"eXIf", b"pHYs", b"zTXt", b"iTXt", b"acTL"):
        for body in (b"", b"\0", b"\0\0x", zlib.compress(b"x"), b"\xff" * 40):
            broken = content[:33] + chunk(name, body) + content[33:]
            with contextlib.suppress(InputError):  # and nothing else
                assert read_picture(broken, "init").shape == (2, 2, 4)


def test_the_profile_of_the_tests_is_one():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc([[0.4, 0.2, 0.0]] * 3, 2.2)))
    assert profile.profile.xcolor_space == "RGB "
