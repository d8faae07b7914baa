"""`layerdiffusion completion`: what makes a shell complete the command's words."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lib_layerdiffusion.commands.common import add_command
from lib_layerdiffusion.errors import HostError

SHELLS = ("bash", "zsh", "fish")


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "completion",
        "print what makes a shell complete this command",
        'bash    # in ~/.bashrc: eval "$(layerdiffusion completion bash)"',
        'zsh     # in ~/.zshrc: eval "$(layerdiffusion completion zsh)"',
        "fish    # layerdiffusion completion fish > ~/.config/fish/completions/layerdiffusion.fish",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_run)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks, and end; otherwise nothing. Without argcomplete no shell ever asks."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(parser)


def _run(arguments: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError as error:
        raise HostError('Completion needs argcomplete: run "pip install argcomplete".') from error
    sys.stdout.write(shellcode(["layerdiffusion"], shell=arguments.shell) + "\n")
    return 0
