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


LACKING = {
    "Neo": (
        "Latent", "Lanczos", "FreeU", "Kohya HRFix", "attention guidance", "utpainting", "inpaint patch",
    ),
    "Forge": ("jxl", "heif"),
}  # fmt: skip
"""Word in a column's heading, the first that fits -> words of what that host does not have."""


def _lacks(host: str, done: str) -> bool:
    words = next((words for name, words in LACKING.items() if name in host), ())
    return any(word.casefold() in done.casefold() for word in words)


def _cell(host: str, done: str, found: Iterable[str]) -> str:
    if host in found:
        return "yes"
    return "none there" if _lacks(host, done) else ""


def table(found: Mapping[str, Iterable[str]]) -> str:
    """Markdown: a row for each thing done, technique and outcome, in the order in which they were first seen.

    found: host as its column is headed -> lines of the files that the tests wrote there. Outcomes that differ in the
    case of letters alone, as titles of hosts' scripts do, are one.
    """
    rows: dict[tuple[str, str, str], tuple[list[str], set[str]]] = {}
    for host, lines in found.items():
        for line in lines:
            entry = json.loads(line)
            row = [entry["done"], entry["technique"], entry["outcome"]]
            _, hosts = rows.setdefault((row[0], row[1], row[2].casefold()), (row, set()))
            hosts.add(host)
    cells = [["what was done", "with", "result", *found], ["---"] * (3 + len(found))]
    cells += [[*row, *(_cell(host, row[0], hosts) for host in found)] for row, hosts in rows.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    given = [argument.rpartition("=") for argument in sys.argv[1:]]
    sys.stdout.write(
        table({host: Path(name).read_text(encoding="utf-8").splitlines() for host, _, name in given}) + "\n"
    )
