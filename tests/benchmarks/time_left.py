"""How true the time left is that a run tells: `python -m tests.benchmarks.time_left`.

A server that has never run anything carries out runs of the bundled family, and what it says of the time left is
compared with what the run then took. An error is the difference between the end that was foretold and the real one, as
a share of the whole run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.server.jobs import Job
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.workers import LocalWorker

RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the first run of all", {"batch": 4, "decode_passes": 8, "steps": 30}),
    ("the same again", {"batch": 4, "decode_passes": 8, "steps": 30}),
    ("more pictures, fewer passes", {"batch": 8, "decode_passes": 2, "steps": 30}),
    ("all layers at once", {"method": "everything", "batch": 2, "decode_passes": 8, "steps": 30}),
)
QUARTERS = (0.1, 0.25, 0.5, 0.75)
"""Shares of a run at which its word is taken."""


def watched(service: Service, job: Job) -> list[tuple[float, float | None]]:
    """(seconds since the start, seconds left as told) until the run has ended."""
    seen: list[tuple[float, float | None]] = []
    while not job.state.is_final:
        if job.started is not None:
            seen.append((time.time() - job.started, job.standing.seconds_left))
        time.sleep(0.02)
    return seen


def errors(seen: list[tuple[float, float | None]], whole: float) -> dict[float, float | None]:
    """Share of the run -> error there, None where nothing was told yet."""
    found: dict[float, float | None] = {}
    for share in QUARTERS:
        at, left = next(((at, left) for at, left in seen if at >= share * whole), seen[-1])
        found[share] = None if left is None else (at + left - whole) / whole
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="red apple")
    given = parser.parse_args()
    engine = LayerDiffusion.from_checkpoint()
    service = Service([LocalWorker(engine)], ModelFacts.of(engine))
    shares = " | ".join(f"at {share:.0%}" for share in QUARTERS)
    print(f"| run | took | first told after | {shares} | median of all |\n|{'---|' * (len(QUARTERS) + 4)}")
    for name, more in RUNS:
        job = service.board.add(service.desk.generate({"prompt": given.prompt, "seed": 1, **more}))
        seen = watched(service, job)
        if job.error or job.ended is None or job.started is None:
            raise SystemExit(job.error)
        whole = job.ended - job.started
        told = [(at, left) for at, left in seen if left is not None]
        cells = ["-" if error is None else f"{error:+.0%}" for error in errors(seen, whole).values()]
        median = statistics.median(abs(at + left - whole) / whole for at, left in told)
        print(f"| {name} | {whole:.1f} s | {told[0][0]:.1f} s | {' | '.join(cells)} | {median:.0%} |")
    service.board.close()


if __name__ == "__main__":
    main()
