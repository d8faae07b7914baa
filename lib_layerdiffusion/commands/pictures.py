"""`layerdiffusion pad` and `layerdiffusion compose`: RGBA arithmetic on files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_layerdiffusion.commands.common import add_json_argument, report
from lib_layerdiffusion.errors import SettingsError


def add_parsers(subparsers: Any) -> None:
    """Register both commands."""
    pad = subparsers.add_parser("pad", help="continue a picture's colour under its transparent parts")
    pad.add_argument("picture", type=Path)
    pad.add_argument("-o", "--output", type=Path, required=True, help=".png to write, RGB")
    pad.set_defaults(run=_run_pad)
    compose = subparsers.add_parser("compose", help="put layers on top of each other, the lowest first")
    compose.add_argument("layers", type=Path, nargs="+", metavar="LAYER", help="pictures, from the background upwards")
    compose.add_argument("-o", "--output", type=Path, required=True, help=".png to write")
    compose.add_argument("--offset", default="0,0", metavar="X,Y", help="of the layers above the lowest, in pixels")
    compose.add_argument("--scale", type=float, default=1.0, help="of the layers above the lowest")
    compose.add_argument("--linear", action="store_true", help="blend linear light instead of sRGB values")
    compose.set_defaults(run=_run_compose)
    for parser in (pad, compose):
        add_json_argument(parser)


def _png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise SettingsError(f'"{path}" is no PNG: name a .png file.')
    return path


def _run_pad(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.files import load_picture, write_png
    from lib_layerdiffusion.images import pad_rgb, to_uint8

    target = _png(arguments.output)
    write_png(target, to_uint8(pad_rgb(load_picture(arguments.picture, "input"))))
    report(arguments, {"picture": target}, [f"picture: {target}"])
    return 0


def _run_compose(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.compose import place
    from lib_layerdiffusion.files import load_picture, write_png

    target = _png(arguments.output)
    left, top = _offset(arguments.offset)
    pictures = [load_picture(path, path.name) for path in arguments.layers]
    canvas = pictures[0]
    for picture in pictures[1:]:
        canvas = place(picture, canvas, left=left, top=top, scale=arguments.scale, linear=arguments.linear)
    write_png(target, canvas)
    report(arguments, {"picture": target, "layers": len(pictures)}, [f"picture: {target}"])
    return 0


def _offset(text: str) -> tuple[int, int]:
    try:
        left, top = (int(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f'The offset "{text}" is unclear: write X,Y in pixels, such as 20,-5.') from None
    return left, top
