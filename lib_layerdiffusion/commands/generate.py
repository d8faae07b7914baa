"""`layerdiffusion generate` and `layerdiffusion chain`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_layerdiffusion.commands.common import (
    add_command,
    add_json_argument,
    add_model_arguments,
    engine_from,
    file_path,
    free_path,
    free_stem,
    naming_in,
    report,
    stage_bars,
)
from lib_layerdiffusion.errors import InputError, SettingsError, quoted
from lib_layerdiffusion.methods import METHODS, Layer

if TYPE_CHECKING:
    from lib_layerdiffusion.engine.results import Result
    from lib_layerdiffusion.images.reading import Picture


EMPTY_PROMPT = "The prompt is empty, so the picture shows anything: say what to show."
_SETTINGS = {
    "--weight": "weight",
    "--stop-at": "stop_at",
    "--resize-mode": "resize_mode",
    "--passes": "decode_passes",
    "--trim": "trim",
    "--rgb-and-mask": "rgb_and_mask",
}
"""Option -> the setting that it gives."""
_VALUES = {
    "--negative": "negative_prompt",
    "--seed": "seed",
    "--steps": "steps",
    "--guidance": "guidance",
    "--sampler": "sampler",
    "--batch": "batch",
    "--strength": "strength",
}
"""Option -> the value of a request that it gives."""


def add_parsers(subparsers: Any) -> None:
    """Register both commands."""
    generate = add_command(
        subparsers,
        "generate",
        "make a picture in layers from a prompt",
        "red apple -o apple.png",
        '"old man sitting" --method bg-to-blend --background bench.jpg --checkpoint juggernautXL.safetensors',
        "red apple --layers ora --preview",
    )
    _add_prompt(generate)
    generate.add_argument(
        "--method", default="transparent", metavar="NAME", help='see "layerdiffusion methods" (default: transparent)'
    )
    generate.add_argument("--batch", default=1, help="pictures to make")
    generate.add_argument("--init", type=file_path, help="picture to start from, RGBA or RGB")
    generate.add_argument("--strength", default=0.75, help="how much of it is made anew, up to 1")
    generate.add_argument("--mask", type=file_path, help="white where the init picture is made anew")
    for layer in Layer:
        generate.add_argument(
            f"--{layer}", type=file_path, metavar="FILE", help=f"the {layer}, for methods that need it"
        )
    _add_sampling(generate)
    generate.set_defaults(run=_run_generate)

    chain = add_command(
        subparsers,
        "chain",
        "two steps in one: all three layers from one of them",
        '"old man sitting" --scene "a bench in a park" --background bench.jpg',
        'rocket --scene "sunset background" --foreground rocket.png -o layers',
    )
    _add_prompt(chain)
    chain.add_argument(
        "--scene", default="", help="what the background shows; the prompt then says only who stands before it"
    )
    start = chain.add_mutually_exclusive_group(required=True)
    start.add_argument("--background", type=file_path, help="gives the foreground that stands before it")
    start.add_argument("--foreground", type=file_path, help="gives the background that lies behind it")
    chain.add_argument("--batch", default=1, help="pictures to make")
    _add_sampling(chain)
    chain.set_defaults(run=_run_chain)


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", metavar="PROMPT", help="what to show; quotes are not needed")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=file_path, default=Path(), help="folder, or the .png to write (default: here)"
    )
    parser.add_argument("--negative", default="", help="what not to show")
    parser.add_argument("--size", help="width x height, such as 1024x768 (default: the model's)")
    parser.add_argument("--seed", help="same seed, same picture (default: random)")
    parser.add_argument("--steps", help="of the sampler (default: the model's)")
    parser.add_argument("--guidance", help="classifier-free guidance (CFG scale)")
    parser.add_argument("--sampler", default="", help='such as "Euler a" or "DPM++ 2M Karras" (default: the model\'s)')
    parser.add_argument("--weight", default=1.0, help="strength of the layer model, 0 to 2")
    parser.add_argument("--stop-at", default=1.0, help="share of the steps after which the plain model goes on")
    parser.add_argument(
        "--layer-prompt", action="append", default=[], metavar="LAYER=TEXT", help="additional prompt of a layer"
    )
    parser.add_argument("--resize-mode", default="Crop and Resize", help="how condition pictures are brought to size")
    parser.add_argument("--passes", help="decode passes: 8, 4, 2 or 1 (default: the model's)")
    parser.add_argument("--preview", action="store_true", help="also write the picture over a checkerboard")
    parser.add_argument("--trim", action="store_true", help="cut off what is clear around a picture with alpha")
    parser.add_argument(
        "--rgb-and-mask", action="store_true", help="also write padded colour and alpha as pictures of their own"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        choices=("ora", "psd"),
        default=(),
        help="also write all layers as one file for an editor",
    )
    add_model_arguments(parser)
    add_json_argument(parser)


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the engine's calls; what is wrong without a model is refused before gigabytes are loaded."""
    from lib_layerdiffusion.engine.request import check_size, parse_size
    from lib_layerdiffusion.images.layerfile import check_ending

    _check_output(arguments.output)
    _read_values(arguments)
    if arguments.size is not None:
        check_size(*parse_size(arguments.size))
    for ending in arguments.layers:
        check_ending(f".{ending}")
    prompts: dict[str, str] = {}
    for text in arguments.layer_prompt:
        layer, separator, words = text.partition("=")
        if not separator or layer not in {item.value for item in Layer}:
            raise SettingsError(f'"{text}" is no layer prompt: write such as "foreground=a glass cup".')
        prompts[layer] = words
    return {
        "negative_prompt": arguments.negative,
        "size": arguments.size,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "sampler": arguments.sampler,
        "weight": arguments.weight,
        "stop_at": arguments.stop_at,
        "layer_prompts": prompts,
        "resize_mode": arguments.resize_mode,
        "decode_passes": arguments.passes,
        "trim": arguments.trim,
        "rgb_and_mask": arguments.rgb_and_mask,
        "batch": arguments.batch,
    }


def _prompt(arguments: argparse.Namespace) -> str:
    return " ".join(arguments.prompt)


def _check_method(arguments: argparse.Namespace) -> None:
    """Make sure that the method is one and has its pictures, whichever family the model turns out to be of."""
    rows = METHODS.named(arguments.method)
    if not rows:
        names = ", ".join(dict.fromkeys(row.name for row in METHODS.values()))
        raise SettingsError(
            f"There is no method {quoted(arguments.method)}; use one of: {names} "
            '("layerdiffusion methods" explains them).'
        )
    given = {layer for layer in Layer if getattr(arguments, layer.value) is not None}
    if all(set(row.inputs) - given for row in rows):
        missing = [layer for layer in rows[0].inputs if layer not in given]
        options = " and ".join(f"--{layer} FILE" for layer in missing)
        raise InputError(f'The method "{rows[0].name}" needs the {" and the ".join(missing)}: give {options}.')


def _read_values(arguments: argparse.Namespace) -> None:
    """Read what the tables of settings and of a request's values know; an error names the option it was typed in."""
    from lib_layerdiffusion.engine.request import VALUES
    from lib_layerdiffusion.settings.fields import FIELDS
    from lib_layerdiffusion.settings.kinds import read_options

    settings = {row.name: row.kind for row in FIELDS}
    read_options(arguments, {option: settings[name] for option, name in _SETTINGS.items()})
    read_options(arguments, {option: VALUES[name] for option, name in _VALUES.items()})


def _picture(arguments: argparse.Namespace, name: str) -> Picture | None:
    """The picture that an option names, read before a model is."""
    from lib_layerdiffusion.engine.request import optional_picture

    return optional_picture(getattr(arguments, name), name)


def _run_generate(arguments: argparse.Namespace) -> int:
    _check_method(arguments)
    values = _common(arguments)
    if not (_prompt(arguments).strip() or arguments.layer_prompt or arguments.init):
        sys.stderr.write(f"{EMPTY_PROMPT}\n")
    own: dict[str, Any] = {
        "method": arguments.method,
        "init_image": _picture(arguments, "init"),
        "strength": arguments.strength,
        "mask": _picture(arguments, "mask"),
        **{layer.value: _picture(arguments, layer.value) for layer in Layer},
    }
    engine = engine_from(arguments)
    with stage_bars(quiet=arguments.json) as progress:
        result = engine.generate(_prompt(arguments), **values, **own, progress=progress)
    return _finish(arguments, result)


def _run_chain(arguments: argparse.Namespace) -> int:
    values = _common(arguments)
    background, foreground = _picture(arguments, "background"), _picture(arguments, "foreground")
    engine = engine_from(arguments)
    words = {"prompt": _prompt(arguments), "scene": arguments.scene}
    with stage_bars(quiet=arguments.json) as progress:
        if background is not None:
            result = engine.extract_foreground(background=background, progress=progress, **words, **values)
        else:
            result = engine.extract_background(foreground=foreground, progress=progress, **words, **values)
    return _finish(arguments, result)


def _finish(arguments: argparse.Namespace, result: Result) -> int:
    folder = arguments.output if arguments.output.suffix.lower() != ".png" else arguments.output.parent
    with naming_in(folder):
        pictures, lines = _written(arguments, result)
    lines = [f"Model: {result.source}", f"Seed: {result.seed}", *lines]
    seconds = {stage: round(value, 3) for stage, value in result.timings.items()}
    values = {"source": result.source, "seed": result.seed, "pictures": pictures, "seconds": seconds}
    report(arguments, {**values, "notes": list(result.notes)}, lines)
    for note in result.notes:
        sys.stderr.write(f"{note}\n")
    return 0


def _written(arguments: argparse.Namespace, result: Result) -> tuple[list[dict[str, Any]], list[str]]:
    """Write all pictures; what was written as JSON, and as lines to print."""
    folder, stem = _place(arguments.output, _prompt(arguments), result)
    lines: list[str] = []
    pictures: list[dict[str, Any]] = []
    for index, image in enumerate(result.images):
        name = stem if len(result.images) == 1 else f"{stem}-{index + 1}"
        files = image.save(folder, name, previews=arguments.preview)
        layered = {ending: free_path(folder / f"{name}.{ending}") for ending in arguments.layers}
        for path in layered.values():
            result.save_layers(path, index)
        written = {"files": files, "layer_files": layered}
        pictures.append({"seed": image.seed, **written})
        lines += [f"{kind}: {path}" for kind, path in {**files, **layered}.items()]
    return pictures, lines


def _check_output(output: Path) -> None:
    """Make sure that pictures can go there; minutes of sampling are not worth a name that cannot be written."""
    is_png = output.suffix.lower() == ".png"
    if output.suffix and not is_png and not output.is_dir():
        raise SettingsError(f'"{output}" is no PNG: layers need one, so name a .png file or a folder.')
    folder = output.absolute().parent if is_png else output.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f'"{nearest}" cannot be written to: choose another place with -o.')


def _place(output: Path, prompt: str, result: Result) -> tuple[Path, str]:
    """Folder and file name without its ending; nothing that exists is overwritten unless it was named itself."""
    if output.suffix.lower() == ".png":
        several = sum(len(image.layers) for image in result.images) > 1
        return output.parent, free_stem(output.parent, output.stem) if several else output.stem
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "picture"
    return output, free_stem(output, f"{words}-{result.seed}")
