"""A generation's layers in one file: OpenRaster (.ora: Krita, GIMP, MyPaint) and Photoshop (.psd).

Layers are given lowest first, as they are painted. Merged pictures blend sRGB values, as editors do.
"""

from __future__ import annotations

import importlib
import io
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.images.arithmetic import Picture8
from lib_layerdiffusion.images.compose import Layer, check_picture, check_size, merge
from lib_layerdiffusion.images.decoding import to_srgb
from lib_layerdiffusion.images.files import write_bytes
from lib_layerdiffusion.images.reading import MAX_PIXELS

ORA_MIMETYPE = "image/openraster"
ORA_VERSION = "0.0.5"
THUMBNAIL_SIDE = 256
PSD_SIDE = 30_000
MAX_LAYER_PIXELS = 4 * MAX_PIXELS
"""Of all layers of a file together."""
_MAX_STACK_BYTES = 1_000_000
_SRGB_PERCEPTUAL = b"\0"
_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)
"""What zipfile, the XML parser and Pillow raise for damaged data."""


@dataclass(frozen=True, eq=False)
class LayerStack:
    """What a layered file holds: the canvas's size in pixels and the layers, lowest first."""

    height: int
    width: int
    layers: tuple[Layer, ...]


def save_layers(path: Path, layers: Sequence[Layer], size: tuple[int, int] | None = None) -> None:
    """Write `layers`, lowest first, to `path`; its ending, .ora or .psd, says the format. Whole or not at all.

    size: (height, width) of the canvas in pixels; without it, as far right and down as the layers reach.

    Raises:
        InputError: no layers, an unknown ending, or a picture or canvas that the format cannot hold.
        LayerDiffusionError: psd-tools is missing, or the place cannot be written to.
    """
    write_bytes(path, layer_file_bytes(path.suffix, layers, size))


def check_ending(ending: str) -> None:
    """Make sure that files with this ending can be written, before anything is made for them.

    Raises:
        InputError: it is none of `ENDINGS`.
        LayerDiffusionError: psd-tools is missing.
    """
    if ending.lower() not in _WRITERS:
        raise InputError(f'Layers are saved as {" or ".join(_WRITERS)}, not as "{ending}".')
    if ending.lower() == ".psd":
        _psd_tools()


def writable_endings() -> tuple[str, ...]:
    """Kinds of layered files that can be written on this machine."""

    def can_write(ending: str) -> bool:
        try:
            check_ending(ending)
        except LayerDiffusionError:
            return False
        return True

    return tuple(ending for ending in _WRITERS if can_write(ending))


def layer_file_bytes(ending: str, layers: Sequence[Layer], size: tuple[int, int] | None = None) -> bytes:
    """The content of a file with this ending; arguments and errors as `save_layers`."""
    check_ending(ending)
    return _WRITERS[ending.lower()](layers, size)


def ora_bytes(layers: Sequence[Layer], size: tuple[int, int] | None = None) -> bytes:
    """The content of an OpenRaster file; equal layers give equal bytes. Arguments and errors as `save_layers`."""
    stack = _checked(layers, size)
    merged = merge(stack.layers, stack.height, stack.width)
    sources = [f"data/layer{number:03d}.png" for number in range(len(stack.layers))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # The type comes first and plain, so that it stands at a fixed place of the file.
        _add(archive, "mimetype", ORA_MIMETYPE.encode("ascii"))
        _add(archive, "stack.xml", _stack_xml(stack, sources), zipfile.ZIP_DEFLATED)
        for layer, source in zip(stack.layers, sources, strict=True):
            _add(archive, source, _png(Image.fromarray(layer.picture)))
        _add(archive, "mergedimage.png", _png(Image.fromarray(merged)))
        thumbnail = Image.fromarray(merged)
        thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        _add(archive, "Thumbnails/thumbnail.png", _png(thumbnail))
    return buffer.getvalue()


def read_ora(source: Path | bytes) -> LayerStack:
    """The layers of an OpenRaster file: names, pictures, offsets and which of them are hidden.

    What other programs add to a layer (opacity, blend mode, groups) is not applied.

    Raises:
        InputError: the file is missing, damaged, no OpenRaster file, or larger than the limits.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            if _read(archive, "mimetype", len(ORA_MIMETYPE) + 8).strip() != ORA_MIMETYPE.encode("ascii"):
                raise InputError("This is a zip archive of another kind: choose an OpenRaster file (.ora).")
            return _read_stack(archive)
    except _UNREADABLE as error:
        raise InputError("The OpenRaster file cannot be read: save it again or choose another one.") from error


def psd_bytes(layers: Sequence[Layer], size: tuple[int, int] | None = None) -> bytes:
    """The content of a Photoshop file of run-length encoded 8-bit channels. Arguments and errors as `save_layers`."""
    tools = _psd_tools()
    stack = _checked(layers, size)
    if max(stack.height, stack.width) > PSD_SIDE:
        raise InputError(f"A .psd holds up to {PSD_SIDE} pixels per side: make the picture smaller or save it as .ora.")
    header = tools["header"].FileHeader(
        version=1, channels=4, height=stack.height, width=stack.width, depth=8, color_mode=3
    )
    compression = tools["constants"].Compression.RLE
    merged = tools["image_data"].ImageData(compression=compression)
    merged.set_data(_planes(_on_white(merge(stack.layers, stack.height, stack.width))), header)
    document = tools["psd"].PSD(
        header=header,
        image_resources=tools["image_resources"].ImageResources(),
        layer_and_mask_information=_psd_layers(tools, stack.layers, compression),
        image_data=merged,
    )
    buffer = io.BytesIO()
    document.write(buffer)
    return buffer.getvalue()


_WRITERS: Mapping[str, Callable[[Sequence[Layer], tuple[int, int] | None], bytes]] = {
    ".ora": ora_bytes,
    ".psd": psd_bytes,
}
ENDINGS = tuple(_WRITERS)


def _checked(layers: Sequence[Layer], size: tuple[int, int] | None) -> LayerStack:
    """The stack with a canvas size and with names that every format can hold."""
    if not layers:
        raise InputError("There are no layers to save: generate a picture first.")
    for layer in layers:
        check_picture(layer.picture, layer.name)
    _check_sum(sum(layer.picture.shape[0] * layer.picture.shape[1] for layer in layers))
    if size is None:
        size = (
            max(layer.top + layer.picture.shape[0] for layer in layers),
            max(layer.left + layer.picture.shape[1] for layer in layers),
        )
    check_size(*size, "merged")
    named = (replace(layer, name=_printable(layer.name) or f"Layer {number}") for number, layer in enumerate(layers, 1))
    return LayerStack(*size, tuple(named))


def _check_sum(pixels: int) -> None:
    if pixels > MAX_LAYER_PIXELS:
        raise InputError(f"The layers have more than {MAX_LAYER_PIXELS // 1_000_000} megapixels together: save fewer.")


def _printable(name: str) -> str:
    """Without control characters and lone surrogates, which XML cannot hold."""
    return "".join(character for character in name if character.isprintable()).strip()


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    entry = zipfile.ZipInfo(name)  # its fixed date keeps the bytes the same from run to run
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def _png(image: Image.Image) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sRGB", _SRGB_PERCEPTUAL)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def _stack_xml(stack: LayerStack, sources: Sequence[str]) -> bytes:
    """The stack.xml of the OpenRaster specification: its first layer is the topmost."""
    image = ET.Element("image", version=ORA_VERSION, w=str(stack.width), h=str(stack.height))
    parent = ET.SubElement(image, "stack")
    for layer, source in reversed(list(zip(stack.layers, sources, strict=True))):
        attributes = {"name": layer.name, "src": source, "x": str(layer.left), "y": str(layer.top)}
        shown = {"opacity": "1.0", "visibility": "visible" if layer.visible else "hidden"}
        ET.SubElement(parent, "layer", attributes | shown | {"composite-op": "svg:src-over"})
    return ET.tostring(image, encoding="UTF-8", xml_declaration=True)


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member that unpacks to at most `limit` bytes; what the archive says of its size need not be true."""
    with archive.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes")
    return content


def _read_stack(archive: zipfile.ZipFile) -> LayerStack:
    text = _read(archive, "stack.xml", _MAX_STACK_BYTES)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("a document type, which could hold entities that expand without end")
    image = ET.fromstring(text)  # noqa: S314 - without a document type nothing expands
    height, width = int(image.attrib["h"]), int(image.attrib["w"])
    check_size(height, width, "merged")
    layers: list[Layer] = []
    pixels = 0
    for element in image.iter("layer"):
        with archive.open(element.attrib["src"]) as file, Image.open(file, formats=["PNG"]) as picture:
            check_size(picture.height, picture.width, "layer's")
            pixels += picture.height * picture.width
            _check_sum(pixels)
            rgba = to_srgb(picture)
        left, top = int(element.get("x", "0")), int(element.get("y", "0"))
        visible = element.get("visibility") != "hidden"
        layers.append(Layer(element.get("name", ""), rgba, left, top, visible))
    return LayerStack(height, width, tuple(reversed(layers)))


def _psd_tools() -> Mapping[str, Any]:
    """The record classes of psd-tools by module; they are the same from 1.9 on, unlike its layer interface."""
    try:
        importlib.import_module("psd_tools")
        names = (
            "psd",
            "psd.header",
            "psd.image_data",
            "psd.image_resources",
            "psd.layer_and_mask",
            "psd.tagged_blocks",
        )
        modules = {name.rpartition(".")[2]: importlib.import_module(f"psd_tools.{name}") for name in names}
        others = {name: importlib.import_module(f"psd_tools.{name}") for name in ("constants", "utils")}
        return modules | others
    except ImportError as error:
        raise LayerDiffusionError(
            'Saving .psd needs psd-tools: run "pip install psd-tools" (beside Forge "pip install psd-tools==1.9.28", '
            "which leaves its Pillow as it is), or save as .ora."
        ) from error


def _psd_layers(tools: Mapping[str, Any], layers: Sequence[Layer], compression: Any) -> Any:
    """The layer and mask section: records lowest first, as they are given."""
    records = tools["layer_and_mask"]
    converted = [_psd_layer(tools, layer, compression) for layer in layers]
    info = records.LayerInfo(
        layer_count=-len(layers),  # negative: the fourth channel of the merged picture is its transparency
        layer_records=records.LayerRecords([record for record, _ in converted]),
        channel_image_data=records.ChannelImageData([channels for _, channels in converted]),
    )
    return records.LayerAndMaskInformation(layer_info=info)


def _psd_layer(tools: Mapping[str, Any], layer: Layer, compression: Any) -> tuple[Any, Any]:
    records = tools["layer_and_mask"]
    height, width = layer.picture.shape[:2]
    channel_ids = (0, 1, 2, -1)  # red, green, blue, transparency
    channels = records.ChannelDataList([records.ChannelData(compression=compression) for _ in channel_ids])
    for channel, plane in zip(channels, _planes(layer.picture), strict=True):
        channel.set_data(plane, width, height, 8, 1)
    blocks = tools["tagged_blocks"].TaggedBlocks()
    blocks.set_data(tools["constants"].Tag.UNICODE_LAYER_NAME, _writable_by(tools, layer.name))
    record = records.LayerRecord(
        top=layer.top,
        left=layer.left,
        bottom=layer.top + height,
        right=layer.left + width,
        channel_info=[records.ChannelInfo(id=number) for number in channel_ids],
        flags=records.LayerFlags(visible=layer.visible),
        name=layer.name.encode("ascii", "replace").decode("ascii")[:255],  # for readers of before Unicode names
        tagged_blocks=blocks,
    )
    return record, channels


def _writable_by(tools: Mapping[str, Any], name: str) -> str:
    """The name as psd-tools can write it: its older releases take UTF-16's units for characters."""
    try:
        tools["utils"].write_unicode_string(io.BytesIO(), name)
    except (OverflowError, ValueError):
        units = name.encode("utf-16-be")
        return "".join(chr(int.from_bytes(units[at : at + 2], "big")) for at in range(0, len(units), 2))
    return name


def _planes(picture: Picture8) -> list[bytes]:
    return [picture[..., channel].tobytes() for channel in range(4)]


def _on_white(rgba: Picture8) -> Picture8:
    """Colour laid on white, alpha kept: how the format stores the colour of a merged picture that has transparency."""
    alpha = rgba[..., 3:].astype(np.uint16)
    colour = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return np.concatenate([colour.astype(np.uint8), rgba[..., 3:]], axis=-1)
