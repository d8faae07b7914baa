"""How far a run is and how long it still takes, counted in steps of the sampler and passes of the decoders."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
SAMPLE, DECODE = "sample", "decode"
STAGES = {SAMPLE: "sampling", DECODE: "decoding"}
FIRST_GUESS = 0.3
"""Time of a decode pass in steps of the sampler on as many pixels, before the first pass has been measured.

By operations it is 0.13 for SD1.5 at 512 pixels and 0.07 for SDXL at 1024; the bundled family's UNet is smaller.
"""
_PRIOR = 2
"""Units of earlier runs that weigh as much as those of this one."""
_NEWEST = 0.4
"""Weight of the newest run in what is remembered of earlier ones."""


@dataclass(frozen=True)
class Part:
    """One call of the engine. steps: of the sampler. passes: of decoders. size: pixels of all batch items together."""

    steps: int
    passes: int
    size: float
    pixels: float
    """Of one batch item."""

    def amounts(self) -> dict[str, tuple[int, float]]:
        """Stage -> how many units it has, and the size of one."""
        return {SAMPLE: (self.steps, self.size), DECODE: (self.passes, self.pixels)}


class Rates:
    """Seconds a unit takes for each pixel, by stage, learned from runs; shared by all runs of a server."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, stage: str) -> float | None:
        """Seconds, None where no run has come so far yet."""
        return self._known.get(stage)

    def learn(self, stage: str, seconds: float) -> None:
        """Take what a run has measured into account."""
        with self._lock:
            old = self._known.get(stage, seconds)
            self._known[stage] = old + _NEWEST * (seconds - old)


@dataclass(frozen=True)
class Standing:
    """done, total: units. fraction: 0 to 1, by time where that is known. seconds_left: None where it is not."""

    stage: str
    done: int
    total: int
    fraction: float
    seconds_left: float | None


class Tracker:
    """Follows one run through its parts by what the engine reports. clock: seconds."""

    def __init__(self, parts: Sequence[Part], rates: Rates, clock: Clock = time.monotonic) -> None:
        self._parts, self._rates, self._clock = list(parts), rates, clock
        self._part, self._stage, self._done = 0, "", 0
        self._units: dict[str, list[float]] = {}
        self._began = self._mark = self._last = clock()
        self._mark_done = 0
        self._highest = 0.0

    def begin(self) -> None:
        """The run's turn has come."""
        self._began = self._mark = self._last = self._clock()

    def report(self, stage: str, done: int, total: int) -> None:
        """Take the engine's (stage, done, total)."""
        if stage == SAMPLE and self._stage == DECODE and self._part < len(self._parts) - 1:
            self._part += 1
        part = self._parts[self._part]
        if stage == SAMPLE and total != part.steps:
            self._parts[self._part] = part = Part(total, part.passes, part.size, part.pixels)
        now = self._clock()
        if stage != self._stage or done <= self._done:
            # The first unit carries what lies before it (prompts, weights), so it is not measured.
            self._mark, self._mark_done = now, done
        elif stage in STAGES:
            each = (now - self._mark) / ((done - self._mark_done) * part.amounts()[stage][1])
            self._units.setdefault(stage, []).extend([each] * (done - self._mark_done))
            self._mark, self._mark_done = now, done
        self._stage, self._done, self._last = stage, done, now

    def finish(self) -> None:
        """Hand what this run has measured to the next ones."""
        for stage in self._units:
            self._rates.learn(stage, self._own(stage))

    def standing(self) -> Standing:
        """Where the run is now."""
        total = sum(part.steps + part.passes for part in self._parts)
        done = sum(part.steps + part.passes for part in self._parts[: self._part])
        done += self._done + (self._parts[self._part].steps if self._stage == DECODE else 0)
        # How long loading takes is not known, so neither is what is left while nothing has been sampled.
        left = self._left() if self._stage else None
        spent = self._clock() - self._began
        by_time = None if left is None else spent / max(spent + left, 1e-9)
        fraction = min(1.0, done / total if by_time is None else by_time)
        self._highest = max(self._highest, fraction)
        stage = "finishing" if done >= total else STAGES.get(self._stage, "loading")
        return Standing(stage, done, total, self._highest, left)

    def _left(self) -> float | None:
        """Seconds for all units that are not done, None while a stage has never been measured."""
        seconds = 0.0
        for number, part in enumerate(self._parts[self._part :], self._part):
            for stage, (units, size) in part.amounts().items():
                rest = units - self._done_of(number, stage)
                rate = self._rate(stage)
                if rest > 0 and rate is None:
                    return None
                seconds += rest * size * (rate or 0.0)
        return max(0.0, seconds - (self._clock() - self._last))

    def _rate(self, stage: str) -> float | None:
        """Seconds a unit and pixel: of this run, of earlier ones, or guessed from the other stage."""
        earlier, count = self._rates.get(stage), len(self._units.get(stage, ()))
        if count:
            own = self._own(stage)
            return own if earlier is None else (count * own + _PRIOR * earlier) / (count + _PRIOR)
        if earlier is None and stage == DECODE and SAMPLE in self._units:
            return self._own(SAMPLE) * FIRST_GUESS
        return earlier

    def _own(self, stage: str) -> float:
        """Seconds a unit and pixel of this run: the mean without the slowest, when the machine did something else."""
        units = sorted(self._units[stage])
        kept = units[:-1] if len(units) > 2 else units[:1]
        return sum(kept) / len(kept)

    def _done_of(self, number: int, stage: str) -> int:
        if number > self._part:
            return 0
        if stage == self._stage:
            return self._done
        return self._parts[number].steps if stage == SAMPLE and self._stage == DECODE else 0
