"""`layerdiffusion batch`: many pictures from a file of prompts, resumable."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lib_layerdiffusion.commands.common import (
    add_command,
    add_json_argument,
    add_model_arguments,
    file_path,
    library,
    model_arguments,
    report,
)

_SHOWN = 10
"""Failed lines whose reason goes to the terminal."""


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "batch",
        "one picture for each line of a JSONL file; goes on where it stopped",
        "prompts.jsonl -o out/",
        "prompts.jsonl -o out/ --checkpoint juggernautXL.safetensors --workers 2",
    )
    parser.add_argument(
        "lines",
        type=file_path,
        metavar="PROMPTS",
        help='JSONL, a line such as {"prompt": "red apple", "seed": 3} or, as a chain of two steps, '
        '{"prompt": "old man", "scene": "a park", "background": "bench.jpg"}',
    )
    parser.add_argument("-o", "--output", type=file_path, required=True, help="folder of pictures and manifest.jsonl")
    parser.add_argument("--workers", default=1, help="processes, each with a model of its own")
    parser.add_argument("--ray", action="store_true", help="run on Ray Data, one model for each GPU (extra [ray])")
    parser.add_argument("--preview", action="store_true", help="also write pictures over a checkerboard")
    add_model_arguments(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.engine import batch_ray, processes
    from lib_layerdiffusion.engine.batch import WORKERS, BatchJob, run_batch
    from lib_layerdiffusion.settings.kinds import read_options

    read_options(arguments, {"--workers": WORKERS})
    job = BatchJob(
        lines=arguments.lines,
        output=arguments.output,
        load=library().from_checkpoint,
        model=model_arguments(arguments),
        workers=arguments.workers,
        previews=arguments.preview,
    )
    summary = run_batch(job, batch_ray.outcomes if arguments.ray else processes.way_of(job), quiet=arguments.json)
    counts = f"{summary['done']} of {summary['lines']} pictures are done, {summary['failed']} failed"
    report(arguments, summary, [f"{counts}: {summary['manifest']}"])
    for item in summary["errors"][:_SHOWN]:
        reason = item["error"].removeprefix(f"Line {item['line']}: ")
        sys.stderr.write(f"line {item['line']}: {reason}\n")
    if len(summary["errors"]) > _SHOWN:
        sys.stderr.write(f"and {len(summary['errors']) - _SHOWN} more, which the manifest names\n")
    return 1 if summary["failed"] else 0
