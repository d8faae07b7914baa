"""`layerdiffusion ui`: the panel on a page of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import HostError

LOCAL = "127.0.0.1"


def add_ui_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register the command; its `run` takes the parsed arguments and gives the exit code."""
    parser = subparsers.add_parser("ui", help="serve a page with the panel", description="Serve a page with the panel.")
    parser.add_argument(
        "--host", default=LOCAL, help="address to listen on; 0.0.0.0 lets the network in (default %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default %(default)s)")
    return parser


def has_new_page() -> bool:
    """Whether the server's own page is there."""
    return (Path(__file__).parents[1] / "server" / "web" / "index.html").is_file()


def known_subjects(checkpoint: str | None) -> list[str]:
    """What the model can be asked for where it is the bundled family, which is small; nothing for any other.

    Raises:
        ModelError: the bundled family is damaged.
    """
    from lib_layerdiffusion.commands.demo import subjects_of
    from lib_layerdiffusion.places import bundled_family

    family = bundled_family() if checkpoint is None else None
    return [] if family is None else subjects_of(family)


def run_ui(engine: Any, host: str = LOCAL, port: int = 7860, subjects: Sequence[str] = ()) -> int:
    """Serve until Ctrl+C. subjects: what a small model knows.

    Raises:
        HostError: gradio is not installed, or nothing can listen there.
    """
    try:
        from lib_layerdiffusion.page.app import serve
    except ModuleNotFoundError as error:
        raise HostError('The page needs gradio: install it with "pip install layerdiffusion[ui]".') from error
    from lib_layerdiffusion.hosts.diffusers import SAMPLER_NAMES

    def announce(address: str) -> None:
        sys.stdout.write(f"LayerDiffusion is at {address} (Ctrl+C ends it)\n")
        sys.stdout.flush()

    serve(engine, host, port, samplers=SAMPLER_NAMES, subjects=subjects, announce=announce)
    return 0
