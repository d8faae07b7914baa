"""The table of docs/alpha.md from what test_forge_matrix.py wrote: `python -m tests.hosts.forge.matrix_table FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ONE, FRAMES, OFFSETS = "one picture", "three frames", "weight offsets"
"""Techniques in the table: SD1.5's shared attention with one frame and with three, and SDXL's low-rank files."""
METHODS_OF = {
    ONE: "(SD1.5) Only Generate Transparent Image (Attention Injection)",
    FRAMES: "(SD1.5) Generate Everything Together (need batch size 3)",
    OFFSETS: "(SDXL) Only Generate Transparent Image (Attention Injection)",
}
HEAD = "| what was done | with | result | run on |\n|---|---|---|---|"


def table(lines: list[str]) -> str:
    """Markdown: a row for each thing done, technique and outcome, in the order in which they were first seen."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for line in lines:
        entry = json.loads(line)
        hosts = rows.setdefault((entry["done"], entry["technique"], entry["outcome"]), [])
        if entry["host"] not in hosts:
            hosts.append(entry["host"])
    shown = (f"| {' | '.join([*row, ', '.join(hosts)])} |" for row, hosts in rows.items())
    return "\n".join([HEAD, *shown])


if __name__ == "__main__":
    found = [line for name in sys.argv[1:] for line in Path(name).read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(table(found) + "\n")
