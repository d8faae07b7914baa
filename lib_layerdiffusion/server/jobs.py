"""Runs with an id: a queue of limited length, workers that take from it, progress, stopping, and what is kept after.

Everything lies in memory, so nothing has to be cleaned up at any end.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from lib_layerdiffusion.engine.results import LayerPicture, Result
from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.server.asking import Asked
from lib_layerdiffusion.server.faults import BusyError, FieldError, MissingError, one_line
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.progress import Rates, Standing, Tracker
from lib_layerdiffusion.server.workers import Worker

_LOG = logging.getLogger(__name__)


class State(str, Enum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self in {State.DONE, State.FAILED, State.STOPPED}


class StoppedError(Exception):
    """Raised inside a run to end it."""


@dataclass(eq=False)
class Job:
    """A run. version: grows with every change. seen: when somebody last looked, on the monotonic clock."""

    asked: Asked
    tracker: Tracker
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = State.QUEUED
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    fault: str | None = None
    result: Result | None = None
    version: int = 0
    seen: float = field(default_factory=time.monotonic)
    is_stopping: bool = False

    @property
    def standing(self) -> Standing:
        """How far it is."""
        return self.tracker.standing()

    def look(self) -> None:
        """Somebody is interested in it."""
        self.seen = time.monotonic()

    def picture(self, index: int) -> LayerPicture:
        """One of its pictures.

        Raises:
            MissingError: there is none of that number, or none yet.
        """
        if self.result is None:
            raise MissingError("This run has no pictures: it is not done.")
        if not 0 <= index < len(self.result.images):
            raise MissingError(f"This run has no picture {index}: it made {len(self.result.images)}.")
        return self.result.images[index]

    def report(self, stage: str, done: int, total: int) -> None:
        """Take the engine's progress; ends the run where that was asked for."""
        if self.is_stopping:
            raise StoppedError
        self.tracker.report(stage, done, total)
        self.version += 1


class Board:
    """All runs of a server.

    workers: each takes one run after the other. now: seconds, monotonic.

    Raises (all methods that take an id):
        MissingError: there is no such run, or not any more.
    """

    def __init__(self, workers: Sequence[Worker], limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._now = limits, now
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._rates = Rates()
        names = [f"layerdiffusion-worker-{number}" for number, _ in enumerate(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
            for worker, name in zip(workers, names, strict=True)
        ]
        self._threads.append(threading.Thread(target=self._watch, name="layerdiffusion-watch", daemon=True))
        for thread in self._threads:
            thread.start()

    def add(self, asked: Asked) -> Job:
        """Put a run into the queue.

        Raises:
            BusyError: too many are waiting.
        """
        job = Job(asked, Tracker(asked.parts, self._rates))
        with self._changed:
            if len(self._waiting) >= self.limits.queue:
                raise BusyError(f"{len(self._waiting)} runs are waiting already: try again in a while.")
            if self._waiting and sum(_given_bytes(one) for one in (*self._waiting, job)) > self.limits.waiting_bytes:
                raise BusyError("The pictures of the runs that wait take too much memory: try again in a while.")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def find(self, name: str) -> Job:
        """The run with that id."""
        with self._changed:
            job = self._jobs.get(name)
        if job is None:
            hours = self.limits.kept_seconds / 3600
            raise MissingError(f"There is no such run: they are kept for {hours:g} hours.")
        return job

    def of_client(self, client: str) -> list[Job]:
        """A client's runs, newest first."""
        with self._changed:
            return [job for job in reversed(self._jobs.values()) if job.asked.client == client]

    def position(self, job: Job) -> int | None:
        """How many runs go before it, None where it does not wait."""
        with self._changed:
            return self._waiting.index(job) if job in self._waiting else None

    def counts(self) -> tuple[int, int]:
        """Runs that are carried out, and that wait."""
        with self._changed:
            running = sum(job.state is State.RUNNING for job in self._jobs.values())
            return running, len(self._waiting)

    def stop(self, job: Job) -> None:
        """Take a run out of the queue, or end it at its next step."""
        with self._changed:
            job.is_stopping = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, State.STOPPED)
            self._changed.notify_all()

    def forget(self, job: Job) -> None:
        """Stop a run and keep nothing of it."""
        self.stop(job)
        with self._changed:
            self._jobs.pop(job.id, None)

    def close(self) -> None:
        """Stop everything; returns when the workers have."""
        with self._changed:
            self._closed = True
            jobs = list(self._jobs.values())
        for job in jobs:
            self.stop(job)
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _work(self, worker: Worker) -> None:
        while (job := self._next()) is not None:
            self._carry_out(worker, job)
            self._tidy()

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            job = self._waiting.pop(0)
            job.state, job.started = State.RUNNING, time.time()
            job.tracker.begin()
            for other in (job, *self._waiting):
                other.version += 1
            return job

    def _carry_out(self, worker: Worker, job: Job) -> None:
        try:
            job.result = worker.run(job.asked, job.report)
            job.tracker.finish()
            state = State.DONE
        except StoppedError:
            state = State.STOPPED
        except LayerDiffusionError as error:
            state, job.error = State.FAILED, str(error)
            job.fault = error.field if isinstance(error, FieldError) else None
            _LOG.warning("A run failed: %s", one_line(error))
        except Exception:  # noqa: BLE001 - one run must not end its worker
            # Ours to put right, so the log has all of it; the user gets a sentence.
            _LOG.exception("A run failed")
            state, job.error = State.FAILED, "The run failed for a reason that is not yours; the server's log has it."
        with self._changed:
            self._end(job, state)

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.time()
        for other in (job, *self._waiting):
            other.version += 1

    def _watch(self) -> None:
        """End attended runs that nobody looks at, and let go of old ones."""
        while not self._closed:
            with self._changed:
                self._changed.wait(timeout=min(1.0, self.limits.attended_seconds / 4))
            for job in self._abandoned():
                self.stop(job)
            self._tidy()

    def _abandoned(self) -> list[Job]:
        with self._changed:
            latest = self._now() - self.limits.attended_seconds
            active = [job for job in self._jobs.values() if not job.state.is_final and not job.is_stopping]
            return [job for job in active if job.asked.attended and job.seen < latest]

    def _tidy(self) -> None:
        """Drop what is older than it is kept for, and the oldest where pictures take too much memory."""
        with self._changed:
            over = [job for job in self._jobs.values() if job.state.is_final]
            too_old = time.time() - self.limits.kept_seconds
            kept = [job for job in over if (job.ended or 0.0) >= too_old]
            for job in over:
                if job not in kept:
                    del self._jobs[job.id]
            sizes = [sum(_bytes_of(job)) for job in kept]
            while len(kept) > 1 and sum(sizes) > self.limits.kept_bytes:
                del self._jobs[kept.pop(0).id], sizes[0]


def _given_bytes(job: Job) -> int:
    """Of the pictures that a run begins with."""
    return sum(value.nbytes for value in job.asked.arguments.values() if isinstance(value, np.ndarray))


def _bytes_of(job: Job) -> Iterator[int]:
    for image in job.result.images if job.result is not None else ():
        kinds = (image.layers, image.previews, image.origins, image.colours, image.masks, image.whole)
        for picture in (picture for kind in kinds for picture in kind.values()):
            yield picture.width * picture.height * len(picture.getbands())
