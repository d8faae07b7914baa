"""Prints the matrix of docs/promises.md: fault, times tried, lost, wrong. `--scale 0.1` for a tenth of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.faults.cases import CASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the tries (default: all)")
    parser.add_argument("names", nargs="*", help="cases to run (default: all)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow's, about the damage that is done here on purpose
    print("| Fault | How it is caused | Tried | Lost | Wrong |\n|---|---|---|---|---|")
    bad, notes, began = 0, [], time.monotonic()
    for case in CASES:
        if arguments.names and case.__name__ not in arguments.names:
            continue
        with tempfile.TemporaryDirectory(prefix="layerdiffusion-faults-") as folder:
            found = case(Path(folder), arguments.scale)
        fault, _, how = (case.__doc__ or "").strip().partition(": ")
        print(f"| {fault} | {how.rstrip('.')} | {found.tried} | {found.lost} | {found.wrong} |", flush=True)
        bad += found.lost + found.wrong
        notes += found.notes
    for note in notes:
        print(f"\n{note}")
    print(f"\n{time.monotonic() - began:.0f} seconds", file=sys.stderr)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
