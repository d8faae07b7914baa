"""Comparing ways of computing one thing, fairly: in turn, in one process, best of several rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def best_times(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Shortest time of each way in seconds. Ways take turns, so that a busy machine slows all of them alike."""
    times = dict.fromkeys(ways, float("inf"))
    for round_number in range(rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number:  # the first round only warms up
                times[name] = min(times[name], time.perf_counter() - start)
    return times


def report(title: str, ways: Mapping[str, Callable[[], object]], rounds: int = 3) -> None:
    """Print each way's time and how many times as fast as the first way it is."""
    times = best_times(ways, rounds)
    first = next(iter(times.values()))
    print(title)
    for name, seconds in times.items():
        print(f"  {name:<44}{seconds * 1e3:10.1f} ms {first / seconds:7.2f}x")
