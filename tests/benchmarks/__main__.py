"""python -m tests.benchmarks [--json] [--device cuda] [--reference DIR] [--clock cpu] [PART ...]

One table: how long every part that is ours takes beside the other ways of doing it, medians of rounds in turn within
one process. The first way of a group is the 1.00; with --reference it is the reference extension's own code.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import torch

from tests.benchmarks import decoding, memory, runs, sharing
from tests.benchmarks.reference import Reference
from tests.benchmarks.timing import Measure, Row, printed

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_LONG = ("decode-2048", "memory")
"""Parts that take minutes and gigabytes: only where they are asked for."""
Parts = dict[str, Callable[[], Iterator[list[Row]]]]
"""Name -> what gives the groups of its table."""


def parts_for(device: torch.device, reference: Reference | None, measure: Measure, *, compiled: bool) -> Parts:
    """Name -> what measures it; larger sizes take fewer rounds."""

    def decode() -> Iterator[list[Row]]:
        for passes in (8, 4, 2, 1):
            yield decoding.decode(device, reference, 512, passes, measure, compiled=compiled and passes == 8)

    def sized(side: int) -> Callable[[], Iterator[list[Row]]]:
        return lambda: iter([decoding.decode(device, reference, side, 8, measure.fewer(), compiled=False)])

    def shared() -> Iterator[list[Row]]:
        for side in (512, 256):
            for frames in (3, 2, 1):
                yield sharing.units(device, reference, frames, side, measure)

    return {
        "decode": decode,
        "decode-1024": sized(1024),
        "decode-2048": sized(2048),
        "memory": lambda: memory.groups(None if reference is None else reference.folder),
        "median": lambda: iter([decoding.median(device, 1024, measure)]),
        "encode": lambda: iter([decoding.encode(device, 1024, measure)]),
        "pictures": lambda: iter([decoding.pictures(reference, 1024, measure)]),
        "sharing": shared,
        "runs": lambda: iter([list(runs.family(device, measure))]),
        "batch": lambda: iter([list(runs.batch(device, measure))]),
        "imports": lambda: iter([list(runs.imports(measure))]),
    }


def machine(device: torch.device) -> dict[str, str]:
    """What the figures are worth nothing without."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": str(torch.get_num_threads()), "torch": torch.__version__}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="what to measure (default: all but decode-2048 and memory)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of the reference extension")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time on one thread, for busy machines"
    )
    parser.add_argument("--compiled", action="store_true", help="the compiled decoder too, which takes minutes to make")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    reference = None if arguments.reference is None else Reference(arguments.reference)
    if arguments.clock == "cpu":
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    measure = Measure(arguments.rounds, CLOCKS[arguments.clock])
    known = parts_for(device, reference, measure, compiled=arguments.compiled)
    unknown = sorted(set(arguments.parts) - set(known))
    if unknown:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(known)}")
    if not arguments.json:
        print(", ".join(f"{key} {value}" for key, value in machine(device).items()), flush=True)
    rows: list[Row] = []
    for name in arguments.parts or [name for name in known if name not in _LONG]:
        sys.stderr.write(f"{name} ...\n")
        with torch.no_grad():
            for group in known[name]():
                rows += group
                if not arguments.json:  # as it comes: a run that is stopped has said what it knew
                    print(printed(group), flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(device), "rows": [asdict(row) for row in rows]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
