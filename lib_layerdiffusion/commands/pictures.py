"""`layerdiffusion pad` and `layerdiffusion compose`: RGBA arithmetic on files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_layerdiffusion.commands.common import add_command, add_json_argument, file_path, report
from lib_layerdiffusion.errors import SettingsError

if TYPE_CHECKING:
    from lib_layerdiffusion.images.reading import Picture


def add_parsers(subparsers: Any) -> None:
    """Register both commands."""
    pad = add_command(
        subparsers, "pad", "continue a picture's colour under its transparent parts", "cut-out.png -o padded.png"
    )
    pad.add_argument("picture", type=file_path)
    pad.add_argument("-o", "--output", type=file_path, required=True, help=".png to write, RGB")
    pad.set_defaults(run=_run_pad)
    compose = add_command(
        subparsers,
        "compose",
        "put layers on top of each other, the lowest first",
        "bench.jpg man.png --offset -40,10 --scale 0.5 -o out.png",
        "bench.jpg man.png -o out.ora",
    )
    compose.add_argument(
        "layers", type=file_path, nargs="+", metavar="LAYER", help="pictures, from the background upwards"
    )
    compose.add_argument(
        "-o", "--output", type=file_path, required=True, help=".png to write, or .ora or .psd to keep the layers"
    )
    compose.add_argument("--offset", default="0,0", metavar="X,Y", help="of the layers above the lowest, in pixels")
    compose.add_argument("--scale", default=1.0, help="of the layers above the lowest")
    compose.add_argument("--linear", action="store_true", help="blend linear light instead of sRGB values")
    compose.set_defaults(run=_run_compose)
    for parser in (pad, compose):
        add_json_argument(parser)


def _png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise SettingsError(f'"{path}" is no PNG: name a .png file.')
    return path


def _run_pad(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.images.arithmetic import pad_rgb, to_uint8
    from lib_layerdiffusion.images.files import load_picture, write_png

    target = _png(arguments.output)
    write_png(target, to_uint8(pad_rgb(load_picture(arguments.picture, "input"))))
    report(arguments, {"picture": target}, [f"picture: {target}"])
    return 0


def _run_compose(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.images.compose import MAX_SCALE
    from lib_layerdiffusion.images.files import load_picture
    from lib_layerdiffusion.images.layerfile import ENDINGS, check_ending
    from lib_layerdiffusion.settings import kinds

    kinds.read_options(arguments, {"--scale": kinds.number(0, MAX_SCALE)})
    target = arguments.output
    place = _offset(arguments.offset)
    if target.suffix.lower() in ENDINGS:
        check_ending(target.suffix)
        if arguments.linear:
            raise SettingsError("Editors blend layers as sRGB values: leave --linear out, or name a .png file.")
        write = _write_layers
    else:
        _png(target)
        write = _write_merged
    write(arguments, [load_picture(path, path.name) for path in arguments.layers], place)
    report(arguments, {"picture": target, "layers": len(arguments.layers)}, [f"picture: {target}"])
    return 0


def _write_merged(arguments: argparse.Namespace, pictures: list[Picture], place: tuple[int, int]) -> None:
    from lib_layerdiffusion.images import compose
    from lib_layerdiffusion.images.files import write_png

    canvas, *others = pictures
    left, top = place
    for picture in others:
        canvas = compose.place(picture, canvas, left=left, top=top, scale=arguments.scale, linear=arguments.linear)
    write_png(arguments.output, canvas)


def _write_layers(arguments: argparse.Namespace, pictures: list[Picture], place: tuple[int, int]) -> None:
    from lib_layerdiffusion.images.compose import Layer, scaled
    from lib_layerdiffusion.images.layerfile import save_layers

    names = [path.stem for path in arguments.layers]
    pairs = zip(names[1:], pictures[1:], strict=True)
    upper = [Layer(name, scaled(picture, arguments.scale), *place) for name, picture in pairs]
    layers = [Layer(names[0], pictures[0]), *upper]
    height, width = pictures[0].shape[:2]
    save_layers(arguments.output, layers, (height, width))


def _offset(text: str) -> tuple[int, int]:
    try:
        left, top = (int(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f'The offset "{text}" is unclear: write X,Y in pixels, such as 20,-5.') from None
    return left, top
