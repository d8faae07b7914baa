"""The table of docs/alpha.md from what the tests wrote: `python -m tests.hosts.forge.matrix_table HOST=FILE ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ONE, FRAMES, OFFSETS = "one picture", "three frames", "weight offsets"
"""Techniques in the table: SD1.5's shared attention with one frame and with three, and SDXL's low-rank files."""
METHODS_OF = {
    ONE: "(SD1.5) Only Generate Transparent Image (Attention Injection)",
    FRAMES: "(SD1.5) Generate Everything Together (need batch size 3)",
    OFFSETS: "(SDXL) Only Generate Transparent Image (Attention Injection)",
}


def table(found: Mapping[str, Iterable[str]]) -> str:
    """Markdown: a row for each thing done, technique and outcome, in the order in which they were first seen.

    found: host as its column is headed -> lines of the files that the tests wrote there.
    """
    rows: dict[tuple[str, str, str], set[str]] = {}
    for host, lines in found.items():
        for line in lines:
            entry = json.loads(line)
            rows.setdefault((entry["done"], entry["technique"], entry["outcome"]), set()).add(host)
    cells = [["what was done", "with", "result", *found], ["---"] * (3 + len(found))]
    cells += [[*row, *("yes" if host in hosts else "" for host in found)] for row, hosts in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    given = [argument.rpartition("=") for argument in sys.argv[1:]]
    sys.stdout.write(
        table({host: Path(name).read_text(encoding="utf-8").splitlines() for host, _, name in given}) + "\n"
    )
