"""`layerdiffusion encode` and `layerdiffusion decode`: RGBA pictures to latents in files, and back."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from lib_layerdiffusion.commands.common import (
    add_command,
    add_json_argument,
    add_model_arguments,
    engine_from,
    file_path,
    free_path,
    naming_in,
    report,
)
from lib_layerdiffusion.errors import InputError

KEY = "latent"


def add_parsers(subparsers: Any) -> None:
    """Register both commands."""
    encode = add_command(
        subparsers, "encode", "hide an RGBA picture's alpha in its latent", "glass.png -o glass.safetensors"
    )
    encode.add_argument("picture", type=file_path)
    encode.add_argument("-o", "--output", type=file_path, help=".safetensors file (default: beside the picture)")
    encode.set_defaults(run=_run_encode)
    decode = add_command(subparsers, "decode", "an RGBA picture from a latent", "glass.safetensors -o glass.png")
    decode.add_argument("latent", type=file_path)
    decode.add_argument("-o", "--output", type=file_path, help=".png file (default: beside the latent)")
    decode.add_argument(
        "--picture", type=file_path, help="what another program decoded the latent to (default: decode it)"
    )
    decode.add_argument("--passes", help="decode passes: 8, 4, 2 or 1 (default: the model's)")
    decode.set_defaults(run=_run_decode)
    for parser in (encode, decode):
        add_model_arguments(parser)
        add_json_argument(parser)


def _run_encode(arguments: argparse.Namespace) -> int:
    from safetensors.torch import save

    from lib_layerdiffusion.images.files import load_picture, write_bytes
    from lib_layerdiffusion.images.opacity import has_transparency, opaque_input_note

    picture = load_picture(arguments.picture, "input")
    engine = engine_from(arguments)
    latent = engine.encode(picture)
    size = {"height": picture.shape[0], "width": picture.shape[1]}
    about = {"scale": "VAE", "picture": json.dumps(size), "model": engine.host.name}
    with naming_in(arguments.picture.parent):
        target = arguments.output or free_path(arguments.picture.with_suffix(".safetensors"))
        write_bytes(target, save({KEY: latent.float().cpu().contiguous()}, about))
    notes = [] if has_transparency(picture) else [opaque_input_note("input")]
    values = {"latent": target, "shape": list(latent.shape), "notes": notes}
    report(arguments, values, [f"latent: {target} {tuple(latent.shape)}"])
    sys.stderr.writelines(f"{note}\n" for note in notes)
    return 0


def _run_decode(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.engine.latents import stored_latent
    from lib_layerdiffusion.images.files import write_png
    from lib_layerdiffusion.settings import kinds
    from lib_layerdiffusion.settings.fields import PASS_COUNTS
    from lib_layerdiffusion.weights import read_weights

    kinds.read_options(arguments, {"--passes": kinds.one_of(*PASS_COUNTS)})

    if not arguments.latent.is_file():
        raise InputError(f'There is no file "{arguments.latent}".')
    state = read_weights(arguments.latent, 'give a file that "layerdiffusion encode" has written')
    latent = stored_latent(state)
    if latent is None:
        raise InputError(
            f'"{arguments.latent}" holds no latent: give a file of "layerdiffusion encode" or of ComfyUI\'s SaveLatent.'
        )
    engine = engine_from(arguments)
    picture = engine.decode(latent, passes=arguments.passes, picture=arguments.picture)
    with naming_in(arguments.latent.parent):
        target = arguments.output or free_path(arguments.latent.with_suffix(".png"))
        write_png(target, picture)
    report(arguments, {"picture": target, "size": picture.size}, [f"picture: {target}"])
    return 0
