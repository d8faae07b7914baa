"""Picture files and Pillow images to uint8 RGBA: what is opened at all, how large it may be, and what its colours mean.

The limits are looked at before anything is read or unpacked. A format that is not in `FORMATS` is never handed to
Pillow's own choice: some of its readers start other programs (Ghostscript for EPS and PDF).
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from lib_layerdiffusion.errors import InputError

Picture = NDArray[np.uint8]
"""uint8 RGBA [H, W, 4], straight colour."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "ICO", "PPM")
"""What is opened: formats that Pillow decodes by itself, inside this process. Older releases lack some of them."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded; none that can be generated comes near it."""
MAX_BYTES = 4 * MAX_PIXELS + (1 << 20)
"""Longer files are refused before they are read: it is what the largest picture takes without any compression."""
MIN_SIDE = 2
_READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_RELATIVE_COLORIMETRIC, _BLACK_POINT = 1, 0x2000
_BITS_16, _LOW_BITS = ";16B", {"L;2": 85, "L;4": 17}
_COLOUR_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_ROUNDING = 2
"""Levels by which a profile may move colours and still be sRGB itself, written down with fewer digits."""


def check_bytes(count: int, name: str) -> None:
    """Raise InputError where a picture's file is longer than `MAX_BYTES`."""
    if count > MAX_BYTES:
        raise InputError(f"The {name} picture is a file of more than {MAX_BYTES >> 20} MiB: make it smaller.")


def check_pixels(height: int, width: int, name: str) -> None:
    """Raise InputError where a picture is smaller than `MIN_SIDE` or larger than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise too_large(name)
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"The {name} picture is {width}x{height} pixels: it must have at least {MIN_SIDE} in either direction."
        )


def too_large(name: str) -> InputError:
    """The error for a picture with too many pixels."""
    return InputError(f"The {name} picture has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller.")


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in cast("Any", Image).OPEN)


def open_picture(content: bytes, name: str) -> Image.Image:
    """A picture file's header, checked; nothing is decoded yet.

    Raises:
        InputError: it is empty, too long, or in no format of `FORMATS`.
    """
    check_bytes(len(content), name)
    if not content:
        raise InputError(f"The {name} picture is empty (0 bytes): choose it again.")
    try:
        return Image.open(io.BytesIO(content), formats=formats())
    except Image.DecompressionBombError as error:
        raise too_large(name) from error
    except Exception as error:  # damaged data makes decoders raise almost anything
        raise InputError(f"The {name} picture cannot be read: it must be a whole {_READABLE} file.") from error


def decode_picture(content: bytes, name: str) -> Picture:
    """A picture file -> uint8 RGBA [H, W, 4] in sRGB.

    Raises:
        InputError: it is unreadable, animated, too small or too large.
    """
    with open_picture(content, name) as image:
        return rgba_of(image, name)


def rgba_of(image: Image.Image, name: str) -> Picture:
    """A Pillow image -> uint8 RGBA [H, W, 4] in sRGB, upright.

    Raises:
        InputError: as `decode_picture`.
    """
    check_pixels(image.height, image.width, name)
    # Phones write a second picture into their JPEGs (MPO); only its first one is meant.
    if getattr(image, "is_animated", False) and str(image.format) != "MPO":
        raise InputError(f"The {name} picture is animated: save one frame of it as PNG and choose that.")
    try:
        return to_srgb(image)
    except MemoryError as error:
        raise InputError(f"There is too little memory for the {name} picture: make it smaller.") from error
    except Exception as error:  # damaged data makes decoders raise almost anything
        raise InputError(f"The {name} picture cannot be read: save it as 8-bit PNG and choose it again.") from error


def to_srgb(image: Image.Image) -> Picture:
    """As `rgba_of`, without its limits; what is damaged or cannot be converted raises whatever Pillow raises."""
    stored = _stored_as(image)
    upright = ImageOps.exif_transpose(image) or image
    return np.array(_in_srgb(upright, stored), dtype=np.uint8)


def _stored_as(image: Image.Image) -> str:
    """How a PNG's values lie in its file ("RGB;16B", "L;4"), which is forgotten once it is decoded; "" elsewhere."""
    tiles = getattr(image, "tile", None) if str(image.format) == "PNG" else None
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _in_srgb(image: Image.Image, stored: str) -> Image.Image:
    image.load()
    colours, alpha = _split(image, _transparent_colour(image, stored))
    rgba = _converted(colours, image.info.get("icc_profile")).convert("RGBA")
    if alpha is not None:
        rgba.putalpha(alpha)
    return rgba


def _transparent_colour(image: Image.Image, stored: str) -> Any:
    """The colour that stands for clear (PNG's tRNS), in the values that the decoded picture has."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and stored.endswith(_BITS_16):  # of which Pillow keeps the upper byte
        return tuple(int(value) >> 8 for value in cast("tuple[int, ...]", key))
    if isinstance(key, int) and stored == "1":
        return 255 if key else 0
    if isinstance(key, int) and stored in _LOW_BITS:
        return key * _LOW_BITS[stored]
    return key


def _split(image: Image.Image, key: Any) -> tuple[Image.Image, Image.Image | None]:
    """Colours in mode L, RGB, CMYK or LAB, and alpha in mode L where there is any."""
    if image.mode == "F":
        raise ValueError("floating point")
    if image.mode.startswith("I"):
        return _from_16_bit(image, key)
    if image.mode in {"CMYK", "LAB"}:
        return image, None
    if image.mode in {"1", "L", "RGB"}:
        colours = image if image.mode == "RGB" else image.convert("L")
        return colours, None if key is None else _alpha_by_colour(colours, key)
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    rgba = image.convert("RGB" if image.mode in {"YCbCr", "HSV", "RGBX"} else "RGBA")
    return rgba.convert("RGB"), rgba.getchannel("A") if rgba.mode == "RGBA" else None


def _alpha_by_colour(colours: Image.Image, key: Any) -> Image.Image:
    values = np.asarray(colours)
    clear = values == key if values.ndim == 2 else (values == np.asarray(key)).all(axis=-1)
    return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))


def _from_16_bit(image: Image.Image, key: Any) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits, which Pillow would clip instead of scale."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits")
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    return grey, None if key is None else _alpha_by_colour(image, key)


def _converted(colours: Image.Image, profile: object) -> Image.Image:
    """Colours to sRGB by the ICC profile in the file; a profile that is damaged or of other colours says nothing."""
    source = _profile(profile, colours.mode)
    if source is None:
        return colours.convert("RGB")
    cms = cast("Any", ImageCms)  # releases differ in how they type its numbers
    transform = cms.buildTransform(
        source, cms.createProfile("sRGB"), colours.mode, "RGB", _RELATIVE_COLORIMETRIC, flags=_BLACK_POINT
    )
    if colours.mode == "RGB" and _changes_nothing(transform):
        return colours
    converted = cms.applyTransform(colours, transform)
    return colours.convert("RGB") if converted is None else converted


def _profile(content: object, mode: str) -> Any:
    if mode == "LAB":
        return ImageCms.createProfile("LAB")
    if not isinstance(content, bytes):
        return None
    try:
        found: Any = ImageCms.ImageCmsProfile(io.BytesIO(content))
        fits = _COLOUR_SPACES.get(found.profile.xcolor_space) == mode
    except (OSError, ImageCms.PyCMSError):
        return None
    return found if fits else None


def _changes_nothing(transform: Any) -> bool:
    """Whether a transform leaves colours all over the cube where they are, but for rounding."""
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, -1, 3)
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    return int(np.abs(after.astype(int) - cube).max()) <= _ROUNDING
