"""Pictures as arrays: reading and writing them, resizing, padding, edges, opacity, and layers on top of each other.

Everything here is NumPy, Pillow and OpenCV; nothing knows of a model. Colours are sRGB, alpha is straight.
"""

from lib_layerdiffusion.images.arithmetic import ResizeMode, condition_image, pad_rgb, preview, to_float, to_uint8
from lib_layerdiffusion.images.edges import EdgeSettings, clean_edges
from lib_layerdiffusion.images.files import load_picture, write_bytes, write_png
from lib_layerdiffusion.images.layerfile import save_layers
from lib_layerdiffusion.images.opacity import is_opaque
from lib_layerdiffusion.images.reading import Picture, encode_picture, picture_hash, read_picture

__all__ = [
    "EdgeSettings",
    "Picture",
    "ResizeMode",
    "clean_edges",
    "condition_image",
    "encode_picture",
    "is_opaque",
    "load_picture",
    "pad_rgb",
    "picture_hash",
    "preview",
    "read_picture",
    "save_layers",
    "to_float",
    "to_uint8",
    "write_bytes",
    "write_png",
]
