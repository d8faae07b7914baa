"""Engines as replicas of a Ray Serve deployment: the same server, its runs carried out wherever Ray has room.

The queue, the results and all of HTTP stay in the server's process; a replica is handed a run, streams its progress and
ends with the result. Closing the stream ends the run at its next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lib_layerdiffusion.engine.ray_start import gpus_of, started
from lib_layerdiffusion.engine.request import Progress
from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.errors import HostError, LayerDiffusionError
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.server.asking import Asked
from lib_layerdiffusion.server.jobs import StoppedError
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.workers import LocalWorker
from lib_layerdiffusion.weights import FileStatus

NAME = "layerdiffusion"
_PROGRESS, _RESULT, _ERROR = "progress", "result", "error"


@dataclass(frozen=True)
class Plan:
    """What every replica loads.

    load: makes an engine; a function of a module or a class, since it travels. model: its arguments. samplers,
    schedules: as in `ModelFacts`.
    """

    load: Callable[..., Any]
    model: Mapping[str, Any]
    samplers: Sequence[str] = ()
    schedules: Sequence[str] = ()


class Replica:
    """An engine in a process of Ray's."""

    def __init__(self, plan: Plan) -> None:
        engine = plan.load(**plan.model)
        self._worker = LocalWorker(engine)
        self._facts = ModelFacts.of(engine, plan.samplers, plan.schedules)

    def facts(self) -> ModelFacts:
        """What the server tells of the model."""
        return self._facts

    async def run(self, asked: Asked) -> AsyncIterator[tuple[Any, ...]]:
        """Carry out a run: ("progress", stage, done, all) at every step, then ("result", it) or ("error", why)."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        closed = threading.Event()

        def tell(*item: Any) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        def report(stage: str, done: int, total: int) -> None:
            if closed.is_set():
                raise StoppedError
            tell(_PROGRESS, stage, done, total)

        def work() -> None:
            try:
                tell(_RESULT, self._worker.run(asked, report))
            except Exception as error:  # noqa: BLE001 - it is raised again where the run was asked for
                tell(_ERROR, error if isinstance(error, LayerDiffusionError) else RuntimeError(repr(error)))

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                item = await items.get()
                yield item
                if item[0] != _PROGRESS:
                    return
        finally:
            closed.set()

    async def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """As `Worker.encode`."""
        return await asyncio.to_thread(self._worker.encode, rgba)

    async def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """As `Worker.decode`."""
        return await asyncio.to_thread(self._worker.decode, latent, picture, family, passes)

    def files(self) -> Mapping[str, FileStatus]:
        """As `Worker.files`."""
        return self._worker.files()


class RayWorker:
    """Hands runs to whichever replica is free. handle: of the deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def run(self, asked: Asked, progress: Progress) -> Result:
        """Carry out a run on a replica; what `progress` raises ends it there."""
        stream = self._handle.options(stream=True).run.remote(asked)
        last: list[Any] = [_ERROR, HostError("A replica ended without a result: look into Ray's log.")]
        try:
            for kind, *rest in stream:
                last = [kind, *rest]
                if kind == _PROGRESS:
                    progress(*rest)
        except BaseException:
            stream.cancel()
            raise
        if last[0] == _RESULT:
            return last[1]
        raise last[1] if last[0] == _ERROR else HostError("A replica ended in the middle of a run: try again.")

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """As `LocalWorker.encode`, on a replica."""
        return _answer(self._handle.encode.remote(rgba))

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """As `LocalWorker.decode`, on a replica."""
        return _answer(self._handle.decode.remote(latent, picture, family, passes))

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files as a replica sees them."""
        return _answer(self._handle.files.remote())


def _answer(response: Any) -> Any:
    """What a replica answers; its user's mistakes arrive inside an error of Ray's."""
    try:
        return response.result()
    except LayerDiffusionError:
        raise
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LayerDiffusionError):
            raise type(cause)(str(cause)) from error
        raise


def deploy(plan: Plan, replicas: int, **cluster: Any) -> tuple[list[RayWorker], ModelFacts]:
    """Start the replicas and wait for their models; one worker for each, and the facts of the model.

    cluster: arguments of `ray.init`, for a cluster that is not the one of the environment.

    Raises:
        HostError: Ray is not installed.
    """
    ray = started("serve", **cluster)
    gpus = 1 if gpus_of(ray) else 0
    deployment = ray.serve.deployment(Replica).options(
        name=NAME, num_replicas=replicas, max_ongoing_requests=1, ray_actor_options={"num_gpus": gpus}
    )
    handle = ray.serve.run(deployment.bind(plan), name=NAME, route_prefix=None)
    facts: ModelFacts = _answer(handle.facts.remote())
    return [RayWorker(handle) for _ in range(replicas)], facts


def close() -> None:
    """End the replicas."""
    from ray import serve

    serve.delete(NAME)
