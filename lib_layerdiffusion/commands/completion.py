"""`layerdiffusion completion`: what makes a shell complete the command's words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any, cast

from lib_layerdiffusion.commands.common import add_command
from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.images.arithmetic import ResizeMode
from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.settings.fields import PASS_COUNTS

SHELLS = ("bash", "zsh", "fish")
_WITH_COMPDEF = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
"""zsh completes nothing before this has run, and a plain ~/.zshrc does not run it."""


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
        from argcomplete.completers import FilesCompleter
    except ModuleNotFoundError:
        return
    files = FilesCompleter()
    values = _values()

    def fitting(prefix: str, action: argparse.Action, **more: Any) -> Iterable[str]:
        return values.get(action.dest) or files(prefix, action=action, **more)

    argcomplete.autocomplete(parser, default_completer=cast("Any", fitting))


def _values() -> dict[str, list[str]]:
    """What can stand behind options that are no files; argparse itself knows only those that it checks."""
    return {
        "method": list(dict.fromkeys(row.name for row in METHODS.values())),
        "resize_mode": [mode.value for mode in ResizeMode],
        "layer_prompt": [f"{layer.value}=" for layer in Layer],
        "offload": ["none", "model", "sequential"],
        "dtype": ["float32", "float16", "bfloat16"],
        "passes": [str(count) for count in PASS_COUNTS],
    }


def _run(arguments: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError as error:
        raise HostError('Completion needs argcomplete: run "pip install argcomplete".') from error
    code = shellcode(["layerdiffusion"], shell=arguments.shell)
    if arguments.shell == "zsh":
        first, _, rest = code.partition("\n")  # the first line says whose completion a file of functions is
        code = f"{first}\n{_WITH_COMPDEF}\n{rest}"
    sys.stdout.write(f"{code}\n")
    return 0
