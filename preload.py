"""Command-line flags, read before Forge starts."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Add this extension's flags to the host's."""
    parser.add_argument(
        "--layerdiffusion-models-dir",
        type=str,
        default=None,
        help="folder of the LayerDiffusion files (default: layer_model in the models folder)",
    )
