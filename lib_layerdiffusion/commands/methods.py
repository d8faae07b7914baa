"""`layerdiffusion methods`: what can be generated, from which pictures."""

from __future__ import annotations

import argparse
from typing import Any

from lib_layerdiffusion.commands.common import add_command, add_json_argument, report
from lib_layerdiffusion.methods import METHODS, LayerMethod


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(subparsers, "methods", "the methods: what each takes and what it gives", "", "--json")
    add_json_argument(parser)
    parser.set_defaults(run=_run)


def _described(row: LayerMethod) -> dict[str, Any]:
    needs, gives = [str(layer) for layer in row.inputs], [str(layer) for layer in row.frames]
    return {"name": row.name, "family": str(row.family), "label": row.label, "needs": needs, "gives": gives}


def _run(arguments: argparse.Namespace) -> int:
    lines: list[str] = []
    for row in METHODS.values():
        needs = " ".join(f"--{layer} FILE" for layer in row.inputs)
        lines.append(f"{row.name:16} {row.family:6} {row.outcome}{f', from {needs}' if needs else ''}")
    report(arguments, {"methods": [_described(row) for row in METHODS.values()]}, lines)
    return 0
