"""Comparing ways of computing one thing, fairly: in turn, in one process, medians of several rounds."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Way = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    seconds: median. ratio: to the first way of its group. memory: MiB above what was in use before, at the peak; None
    where nobody looked. rate: share of the machine's measured peak, None where the work is not counted.
    """

    group: str
    way: str
    seconds: float
    ratio: float
    memory: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Measure:
    """How often, and by which clock: what the wall shows, or the processor's time, which others' work hardly changes.

    The processor's time tells ways apart only where all run on one thread.
    """

    rounds: int = 5
    clock: Callable[[], float] = time.perf_counter

    def fewer(self) -> Measure:
        """For what takes long."""
        return Measure(max(1, self.rounds // 3), self.clock)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_times(ways: Mapping[str, Way], measure: Measure, *, warm: bool = False) -> dict[str, float]:
    """Median time of each way in seconds. Ways take turns, so that a busy machine slows all of them alike.

    warm: they have run before; else a first round that is not counted warms them up.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(warm, measure.rounds + 1):
        for name, run in ways.items():
            synchronize()
            start = measure.clock()
            run()
            synchronize()
            if round_number:
                times[name].append(measure.clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(run: Way) -> float:
    """MiB that a call takes at its peak, above what is in use before it; sampled every 2 ms on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before, most, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(0.0, most[0] - before)


def resident() -> float:
    """MiB of this process that are in memory now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(
    group: str,
    ways: Mapping[str, Way],
    measure: Measure,
    *,
    memory: bool = False,
    operations: float | None = None,
    peak: float | None = None,
) -> list[Row]:
    """Rows of ways that do the same; the first is what the others are compared with.

    operations: of one call, and peak: of the machine a second, for `Row.rate`.
    """
    # The round that warms up is looked at; looking takes time, so no other is.
    peaks = {name: peak_memory(run) for name, run in ways.items()} if memory else {}
    times = median_times(ways, measure, warm=memory)
    first = next(iter(times.values()))
    return [
        Row(
            group,
            name,
            seconds,
            seconds / first,
            peaks.get(name),
            operations / seconds / peak if operations and peak else None,
        )
        for name, seconds in times.items()
    ]


@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype, measure: Measure) -> float:
    """Operations a second of a large 3x3 convolution, the fastest thing that the decoder could consist of."""
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1).to(device, dtype, memory_format=torch.channels_last)
    x = torch.randn(1, 256, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    seconds = median_times({"": lambda: convolution(x)}, measure)[""]
    return 2 * 9 * 256 * 256 * 64 * 64 / seconds


def printed(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines: list[str] = []
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", group]
        memory = "" if row.memory is None else f"{row.memory:9.0f} MiB"
        rate = "" if row.rate is None else f"{row.rate:6.0%} of peak"
        lines.append(f"  {row.way:<52}{row.seconds * 1e3:11.1f} ms {row.ratio:7.2f}{memory:>14}{rate:>15}")
    return "\n".join(lines)
