"""`layerdiffusion demo`: the family that comes with the package, and the subjects that it knows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_layerdiffusion.commands.common import add_command, add_json_argument, report
from lib_layerdiffusion.errors import ModelError

SUBJECTS_FILE = "subjects.txt"


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(subparsers, "demo", "the bundled family, and the subjects that it knows", "--list")
    parser.add_argument("--list", action="store_true", help="print the subjects, one a line")
    add_json_argument(parser)
    parser.set_defaults(run=_run)


def subjects_of(family: Path) -> list[str]:
    """The subjects that a family was trained on, from its `subjects.txt`.

    Raises:
        ModelError: the file is missing or cannot be read.
    """
    path = family / SUBJECTS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f'"{path}" cannot be read: get the package again.') from error
    return [line.strip() for line in lines if line.strip()]


def _run(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.places import bundled_family

    family = bundled_family()
    if family is None:
        raise ModelError("No family comes with this copy of the package: give --checkpoint, or get the whole package.")
    subjects = subjects_of(family)
    lines = subjects
    if not arguments.list:
        lines = [
            f"The bundled family in {family} knows {len(subjects)} subjects; --list prints them.",
            f'Try: layerdiffusion generate "{subjects[0] if subjects else "an apple"}"',
        ]
    report(arguments, {"family": family, "subjects": subjects}, lines)
    return 0
