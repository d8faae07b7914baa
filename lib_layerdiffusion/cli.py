"""The `layerdiffusion` command: its parts, and what becomes of their errors.

Exit codes: 0 done, 1 something went wrong, 2 it was called wrongly.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import traceback
from collections.abc import Sequence

from lib_layerdiffusion.commands import (
    batch,
    completion,
    demo,
    doctor,
    evaluate,
    generate,
    latents,
    methods,
    pictures,
    serve,
    weights,
)
from lib_layerdiffusion.commands.common import CommandParser, add_command, examples_text, package_of
from lib_layerdiffusion.errors import LayerDiffusionError, SettingsError, is_out_of_memory
from lib_layerdiffusion.training.cli import add_train_parser
from lib_layerdiffusion.version import __version__

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def build_parser() -> CommandParser:
    """The whole command line; each subcommand's namespace has `run`, which takes it and gives the exit code."""
    parser = CommandParser(
        prog="layerdiffusion",
        description="Transparent pictures and layers, from a prompt.",
        epilog=examples_text("", "generate red apple -o apple.png", "ui --open", "generate --help"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"layerdiffusion {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (generate, methods, batch, latents, pictures, serve, weights, demo, doctor, evaluate, completion):
        module.add_parsers(subparsers)
    add_train_parser(subparsers, add_command)
    for name in dict.fromkeys(subparsers.choices):
        # Either place is natural to type it in; one that is not given must not overwrite the other.
        subparsers.choices[name].add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    return parser


def joined(words: Sequence[str]) -> list[str]:
    """`--offset -40,10` as one word: argparse takes a value that begins with a dash for another option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--offset" and re.match(r"-\d", word):
            joined[-1] = f"--offset={word}"
        else:
            joined.append(word)
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        parser = build_parser()
        completion.complete(parser)
        arguments = parser.parse_args(joined(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    # Hints about optional parts of these libraries are nothing that a user of this command has asked for.
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - the last line between a fault of ours and a user
        if arguments.debug:
            traceback.print_exception(error)
        print(f"layerdiffusion: {_sentence(error)}", file=sys.stderr)
        return USAGE if isinstance(error, SettingsError) else FAILED


def command() -> int:
    """`main` as a process of its own, which does not take apart what it has loaded before the system takes it back."""
    code = main()
    gc.freeze()  # else the interpreter looks for circles in a million objects as it ends: a second
    return code


def _sentence(error: BaseException) -> str:
    if isinstance(error, LayerDiffusionError):
        return str(error)
    if is_out_of_memory(error):
        return "There is too little memory for this: make it smaller or fewer at once."
    if isinstance(error, ModuleNotFoundError):
        return f'The package "{error.name}" is not installed: run "pip install {package_of(error.name or "")}".'
    reason = " ".join(str(error).split())[:300] or "no reason given"
    return f"{type(error).__name__}: {reason} (--debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
