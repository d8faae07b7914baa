"""Pictures of every form that pages, the API and people send."""

from __future__ import annotations

import base64
import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from PIL import Image, ImageFile
from strategies import pictures as random_pictures

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import decoding
from lib_layerdiffusion.images.reading import encode_picture, picture_hash, read_picture

COLOUR = (200, 100, 50)


def file_bytes(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sixteen_bit(colour: tuple[int, ...]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    order = [2, 1, 0, 3][: len(colour)]
    values = np.array([colour[channel] for channel in order], np.uint16) * 257
    done, content = cv2.imencode(".png", np.broadcast_to(values, (2, 3, len(colour))))
    assert done
    return content.tobytes()


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (3, 2), colour)


@given(random_pictures())
def test_a_picture_survives_encoding(picture):
    text = encode_picture(picture)
    assert np.array_equal(read_picture(text, "test"), picture)
    assert np.array_equal(read_picture(text.partition(",")[2], "test"), picture)
    assert np.array_equal(read_picture(picture.tolist(), "test"), picture)
    assert np.array_equal(read_picture(Image.fromarray(picture), "test"), picture)


@pytest.mark.parametrize("nothing", [None, "", "  ", {}, {"composite": None}, {"background": None, "layers": []}])
def test_no_picture(nothing):
    assert read_picture(nothing, "test") is None


def test_arrays_of_every_number_of_channels():
    grey = np.array([[0, 50], [100, 255]], np.uint8)
    expected = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    for same in (
        grey,
        grey[..., None],
        np.dstack([grey] * 3),
        grey.astype(np.int64),
        grey.astype(float),
        grey.tolist(),
    ):
        assert np.array_equal(read_picture(same, "test"), expected)
    assert np.array_equal(read_picture(np.dstack([grey, grey]), "test")[..., 3], grey)


@pytest.mark.parametrize("key", ["composite", "background", "image"])
def test_what_a_canvas_hands_over(key):
    array = np.full((2, 3, 4), 9, np.uint8)
    assert np.array_equal(read_picture({key: array, "mask": None}, "test"), array)
    assert np.array_equal(read_picture({key: encode_picture(array)}, "test"), array)


def test_the_composite_of_a_canvas_comes_before_its_background():
    drawn, under = np.full((2, 3, 4), 9, np.uint8), np.zeros((2, 3, 4), np.uint8)
    assert np.array_equal(read_picture({"background": under, "composite": drawn}, "test"), drawn)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (file_bytes(flat("CMYK", (0, 0, 0, 0)), "TIFF"), (255, 255, 255, 255)),
        (file_bytes(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0, 255)),
        (file_bytes(flat("RGB", COLOUR), "BMP"), (*COLOUR, 255)),
        (sixteen_bit(COLOUR), (*COLOUR, 255)),
        (sixteen_bit((*COLOUR, 7)), (*COLOUR, 7)),
        (file_bytes(flat("LA", (40, 7))), (40, 40, 40, 7)),
        (file_bytes(flat("1", 1)), (255, 255, 255, 255)),
        (file_bytes(flat("RGB", COLOUR), transparency=COLOUR), (*COLOUR, 0)),
        (file_bytes(Image.fromarray(np.full((2, 3), 257 * 77, np.uint16))), (77, 77, 77, 255)),
        (file_bytes(Image.fromarray(np.full((2, 3), 65535, np.int32)), "TIFF"), (255, 255, 255, 255)),
    ],
    ids=[
        "cmyk",
        "cmyk jpeg",
        "bmp",
        "16 bit rgb",
        "16 bit rgba",
        "grey with alpha",
        "bilevel",
        "one colour transparent",
        "16 bit",
        "32 bit mode",
    ],
)
def test_modes_of_files(content, expected):
    picture = read_picture(content, "test")
    assert picture.shape == (2, 3, 4)
    assert tuple(picture[1, 2]) == expected


def test_a_palette_with_transparency_keeps_it():
    image = flat("P", 1)
    image.putpalette([0, 0, 0, *COLOUR])
    picture = read_picture(file_bytes(image, transparency=bytes([255, 128])), "test")
    assert tuple(picture[0, 0]) == (*COLOUR, 128)


def test_a_turned_photo_stands_upright():
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture = read_picture(file_bytes(image, exif=exif.tobytes()), "test")
    assert np.array_equal(picture[..., :3], np.rot90(np.asarray(image), -1))


def animated(format_: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    return file_bytes(frames[0], format_, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("/etc/hostname", "not base64"),
        ("https://example.org/a.png", "not base64"),
        ("data:image/png;base64,", "0 bytes"),
        (b"", "0 bytes"),
        (base64_of(b"hello there"), "cannot be read"),
        (file_bytes(Image.new("RGB", (40, 40)))[:60], "cannot be read"),
        (animated("GIF"), "animated"),
        (animated("PNG"), "animated"),
        (animated("WEBP"), "animated"),
        (np.zeros((1, 1, 4), np.uint8), "1x1"),
        (file_bytes(Image.new("RGB", (1, 1))), "1x1"),
        ([[0, 300]] * 2, "0 to 255"),
        ([[0.5, 0.25]] * 2, "0 to 255"),
        ([[float("nan")] * 2] * 2, "0 to 255"),
        ([["a", "b"]] * 2, "0 to 255"),
        ([[0, 1], [2]], "differ in length|0 to 255"),
        ([], "empty"),
        (np.zeros((2, 2, 7), np.uint8), "height x width"),
        (np.zeros(12, np.uint8), "height x width"),
        ({"file": "a.png"}, 'without an "image"'),
        (7, "cannot be read"),
        (Image.new("F", (3, 3)), "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(value, complaint):
    with pytest.raises(InputError, match=complaint) as refused:
        read_picture(value, "background")
    assert str(refused.value).startswith("The background picture")
    assert str(refused.value).endswith(".")


def test_a_picture_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 99)
    content = file_bytes(Image.new("RGB", (10, 10)))
    for value in (np.zeros((10, 10), np.uint8), content, base64_of(content)):
        with pytest.raises(InputError, match="megapixels"):
            read_picture(value, "test")


def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_unpacked():
    content = bytearray(file_bytes(Image.new("L", (10, 10))))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    with pytest.raises(InputError, match="megapixels"):
        read_picture(bytes(content), "test")


def test_a_hundred_megapixels_are_refused_before_they_are_decoded(monkeypatch):
    content = bytearray(file_bytes(Image.new("L", (10, 10))))
    content[16:24] = (10_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(InputError, match="64 megapixels"):
        read_picture(bytes(content), "test")


def test_the_hash_tells_contents_apart():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert picture_hash(picture) == picture_hash(np.asfortranarray(picture)) == "be5b66a1fb"
    assert picture_hash(picture) != picture_hash(picture.reshape(3, 2, 4))
