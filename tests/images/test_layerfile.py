"""Layered files, read back by readers that share no code with the writer."""

from __future__ import annotations

import io
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.images import layerfile
from lib_layerdiffusion.images.compose import Layer, merge
from lib_layerdiffusion.images.layerfile import ora_bytes, psd_bytes, read_ora, save_layers
from tests.golden import rgba

SIZE = (60, 90)


def generation() -> list[Layer]:
    """A solid background, a soft foreground of the same size, and a smaller one that reaches out of the canvas."""
    background = rgba("background", *SIZE)
    background[..., 3] = 255
    soft = rgba("foreground", *SIZE)
    return [Layer("background", background), Layer("foreground", soft), Layer("前景 <&> é", rgba("x", 33, 21), 75, -8)]


def pillow_merge(layers: list[tuple[Image.Image, int, int]]) -> np.ndarray:
    merged = Image.new("RGBA", (SIZE[1], SIZE[0]))
    for image, left, top in layers:
        canvas = Image.new("RGBA", merged.size)
        canvas.paste(image, (left, top))
        merged = Image.alpha_composite(merged, canvas)
    return np.array(merged)


def assert_same_picture(one: np.ndarray, other: np.ndarray, tolerance: float = 1) -> None:
    """Equal within a level of alpha and of what shows on black and on white."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    assert one.shape == other.shape
    assert np.abs(one[..., 3] - other[..., 3]).max() <= tolerance
    for below in (0, 255):
        shown = [p[..., :3] * p[..., 3:] / 255 + below * (1 - p[..., 3:] / 255) for p in (one, other)]
        assert np.abs(shown[0] - shown[1]).max() <= tolerance


def test_an_independent_reader_finds_the_layers_of_an_ora(tmp_path):
    layers = generation()
    path = tmp_path / "picture.ora"
    save_layers(path, layers, SIZE)
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, first.extra) == ("mimetype", zipfile.ZIP_STORED, b"")
        assert archive.read("mimetype") == b"image/openraster"
        assert path.read_bytes()[30:54] == b"mimetypeimage/openraster"
        assert archive.testzip() is None
        root = ET.fromstring(archive.read("stack.xml"))
        assert (root.tag, root.get("w"), root.get("h")) == ("image", "90", "60")
        elements = root.findall("stack/layer")
        assert [element.get("name") for element in elements] == [layer.name for layer in reversed(layers)]
        found = []
        for element, layer in zip(elements, reversed(layers), strict=True):
            assert (element.get("x"), element.get("y")) == (str(layer.left), str(layer.top))
            image = Image.open(io.BytesIO(archive.read(element.get("src", ""))))
            np.testing.assert_array_equal(np.array(image), layer.picture)
            found.append((image, layer.left, layer.top))
        merged = np.array(Image.open(io.BytesIO(archive.read("mergedimage.png"))))
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
    assert_same_picture(merged, pillow_merge(found[::-1]))
    np.testing.assert_array_equal(merged, merge(layers, *SIZE))
    assert (thumbnail.format, thumbnail.size) == ("PNG", (90, 60))


def test_the_thumbnail_is_at_most_256_pixels():
    content = ora_bytes([Layer("wide", np.full((100, 1000, 4), 200, np.uint8))])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png"))).size == (256, 26)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.text(max_size=12), st.integers(1, 9), st.integers(1, 9), st.integers(-5, 20), st.integers(-5, 20)),
        min_size=1,
        max_size=4,
    )
)
def test_ora_round_trip(specified):
    layers = [
        Layer(name, rgba(f"{number}", 9, 9)[:height, :width], left, top, visible=number % 2 == 0)
        for number, (name, height, width, left, top) in enumerate(specified)
    ]
    stack = read_ora(ora_bytes(layers, (16, 24)))
    assert (stack.height, stack.width, len(stack.layers)) == (16, 24, len(layers))
    for written, found in zip(layers, stack.layers, strict=True):
        np.testing.assert_array_equal(found.picture, written.picture)
        assert (found.left, found.top, found.visible) == (written.left, written.top, written.visible)
        kept = "".join(character for character in written.name if character.isprintable()).strip()
        assert found.name == kept or (not kept and found.name)


def test_the_canvas_reaches_as_far_as_the_layers():
    layers = [Layer("a", rgba("a", 10, 10), -3, 5), Layer("b", rgba("b", 4, 4), 20, 0)]
    stack = read_ora(ora_bytes(layers))
    assert (stack.height, stack.width) == (15, 24)
    assert ora_bytes(layers) == ora_bytes(layers)


def test_psd_tools_finds_the_layers_of_a_psd(tmp_path):
    psd_tools = pytest.importorskip("psd_tools")
    layers = [*generation(), Layer("odd", rgba("odd", 13, 7), 3, 2)]
    path = tmp_path / "picture.PSD"
    save_layers(path, layers, SIZE)
    document = psd_tools.PSDImage.open(path)
    assert (document.width, document.height, document.channels) == (90, 60, 4)
    found = list(document)  # lowest first
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    for read, written in zip(found, layers, strict=True):
        assert read.offset == (written.left, written.top)
        assert read.is_visible()
        np.testing.assert_array_equal(np.array(read.topil().convert("RGBA")), written.picture)
    expected = merge(layers, *SIZE)
    placed = [(layer.topil().convert("RGBA"), *layer.offset) for layer in found]
    assert_same_picture(pillow_merge(placed), expected)
    assert_same_picture(np.array(document.topil().convert("RGBA")), expected)


def test_pillow_finds_the_places_and_the_merged_picture_of_a_transparent_psd(tmp_path):
    pytest.importorskip("psd_tools")
    odd = [Layer(f"odd {side}", rgba(f"{side}", side, side + 2), side, 2) for side in (1, 7, 21)]
    layers = [generation()[1], *odd]  # Pillow 9.5 cannot read negative offsets
    (tmp_path / "picture.psd").write_bytes(psd_bytes(layers, SIZE))
    with Image.open(tmp_path / "picture.psd") as image:
        assert image.size == (90, 60)
        boxes = [(name, box) for name, _, box, _ in image.layers]
        stored = np.array(image.convert("RGB")).astype(int)  # laid on white, as the format wants it
    assert boxes[1:] == [(f"odd {side}", (side, 2, 2 * side + 2, side + 2)) for side in (1, 7, 21)]
    values = merge(layers, *SIZE).astype(np.float64)
    on_white = values[..., :3] * values[..., 3:] / 255 + 255 - values[..., 3:]
    assert np.abs(stored - on_white).max() <= 1


def test_without_psd_tools_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    with pytest.raises(LayerDiffusionError, match="pip install psd-tools"):
        save_layers(tmp_path / "picture.psd", generation())
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_older_file_and_nothing_else(monkeypatch, tmp_path):
    path = tmp_path / "picture.ora"
    path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(LayerDiffusionError, match="No space left"):
        save_layers(path, generation())
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.ora"]
    assert path.read_bytes() == b"older"


def test_places_and_endings_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LayerDiffusionError, match="cannot be written"):
        save_layers(tmp_path / "file" / "picture.ora", generation())
    with pytest.raises(InputError, match=r"\.ora or \.psd"):
        save_layers(tmp_path / "picture.tiff", generation())


def test_stacks_that_no_file_can_hold():
    with pytest.raises(InputError, match="no layers"):
        ora_bytes([])
    with pytest.raises(InputError, match="no pixels"):
        ora_bytes([Layer("gone", rgba("a", 4, 4), -4, 0)])
    with pytest.raises(InputError, match="megapixels"):
        ora_bytes(generation(), (20_000, 20_000))
    with pytest.raises(InputError, match="RGBA"):
        ora_bytes([Layer("rgb", np.zeros((4, 4, 3), np.uint8))])
    vast = np.broadcast_to(np.zeros(4, np.uint8), (8_000, 8_000, 4))
    with pytest.raises(InputError, match="together"):
        ora_bytes([Layer("vast", vast)] * 5)


def test_a_psd_has_a_longest_side():
    pytest.importorskip("psd_tools")
    with pytest.raises(InputError, match="30000"):
        psd_bytes([Layer("long", np.zeros((1, 30_001, 4), np.uint8))])


def rewritten(content: bytes, **entries: bytes | None) -> bytes:
    """The archive with entries replaced, or left out where None; keys have `_` for the dot."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            entry = entries.get(name.replace(".", "_"), old.read(name))
            if entry is not None:
                new.writestr(name, entry)
    return buffer.getvalue()


STACK = '<image w="{w}" h="4"><stack><layer src="{src}" x="{x}"/></stack></image>'


@pytest.mark.parametrize(
    "entries",
    [
        {"mimetype": b"application/zip"},
        {"mimetype": None},
        {"stack_xml": None},
        {"stack_xml": b"<image"},
        {"stack_xml": b"<image><stack/></image>"},
        {"stack_xml": b'<!DOCTYPE x [<!ENTITY a "aaaa">]><image w="4" h="4"><stack/></image>'},
        {"stack_xml": b" " * 1_000_001},
        {"stack_xml": STACK.format(w="many", src="mergedimage.png", x=0).encode()},
        {"stack_xml": STACK.format(w=10**9, src="mergedimage.png", x=0).encode()},
        {"stack_xml": STACK.format(w=4, src="../../etc/passwd", x=0).encode()},
        {"stack_xml": STACK.format(w=4, src="stack.xml", x=0).encode()},
        {"stack_xml": STACK.format(w=4, src="mergedimage.png", x="left").encode()},
    ],
)
def test_damaged_ora_files_are_refused(entries):
    good = ora_bytes([Layer("a", rgba("a", 4, 4))])
    with pytest.raises(InputError):
        read_ora(rewritten(good, **entries))


def test_cut_or_missing_ora_files_are_refused(tmp_path):
    good = ora_bytes(generation())
    for content in (b"", b"PK", good[: len(good) // 2]):
        with pytest.raises(InputError, match="cannot be read"):
            read_ora(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_ora(tmp_path / "missing.ora")


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_crash_the_reader(changes):
    content = bytearray(ora_bytes([Layer("a", rgba("a", 4, 4)), Layer("b", rgba("b", 3, 5), 1, 1)]))
    for place, value in changes:
        content[int(place * len(content))] = value
    try:
        stack = read_ora(bytes(content))
    except InputError:
        return
    assert all(layer.picture.dtype == np.uint8 and layer.picture.shape[2] == 4 for layer in stack.layers)


def test_a_file_that_repeats_a_huge_layer_is_refused(monkeypatch):
    monkeypatch.setattr(layerfile, "MAX_LAYER_PIXELS", 100)
    layer = Layer("a", rgba("a", 6, 6))
    good = ora_bytes([layer, layer])
    monkeypatch.setattr(layerfile, "MAX_LAYER_PIXELS", 50)
    with pytest.raises(InputError, match="together"):
        read_ora(good)


@pytest.mark.parametrize(
    "name", ["\U0001f34e apple", "\U0001f468\u200d\U0001f469", "\u82f9\u679c", "a\ud800b", "\U0010ffff" * 200]
)
def test_layers_may_be_called_anything(tmp_path, name):
    psd_tools = pytest.importorskip("psd_tools")
    layers = [Layer(name, np.full((4, 4, 4), 200, np.uint8))]
    shown = "".join(character for character in name if character.isprintable()).strip() or "Layer 1"
    assert read_ora(ora_bytes(layers)).layers[0].name == shown
    content = psd_bytes(layers)
    assert shown.encode("utf-16-be") in content
    document = psd_tools.PSDImage.open(io.BytesIO(content))
    read = "".join(layer.name for layer in document)
    assert read.encode("utf-16-be", "surrogatepass").decode("utf-16-be") == shown
