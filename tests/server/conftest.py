"""A server on a tiny engine, and one whose worker does what a test tells it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("uvicorn")

from fastapi.testclient import TestClient
from PIL import Image

from lib_layerdiffusion.engine.results import Result
from lib_layerdiffusion.hosts.diffusers.samplers import SAMPLER_NAMES, SCHEDULE_NAMES
from lib_layerdiffusion.server.app import build_app
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.routes import PREFIX
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.workers import LocalWorker
from tests.tiny_family import new_engine, write_layers


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    return new_engine(write_layers(tmp_path_factory.mktemp("layers")))


@pytest.fixture(scope="session")
def facts(engine):
    return ModelFacts.of(engine, SAMPLER_NAMES, SCHEDULE_NAMES)


@dataclass
class Client:
    """Asks a server in this process."""

    http: Any
    service: Service

    def get(self, path: str, status: int = 200, **more: Any) -> Any:
        return self.answer(self.http.get(path if path.startswith("/") else f"{PREFIX}/{path}", **more), status)

    def post(self, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        arguments = more if "content" in more else {"json": {} if body is None else body, **more}
        return self.answer(self.http.post(f"{PREFIX}/{path}", **arguments), status)

    @staticmethod
    def answer(response: Any, status: int) -> Any:
        assert response.status_code == status, response.text[:500]
        return response.json() if response.headers.get("content-type", "").startswith("application/json") else response

    def run(self, path: str = "generate", **body: Any) -> Any:
        """A run and what became of it."""
        job = self.post(path, {"prompt": "an apple", **body}, status=202)
        return self.get(f"jobs/{job['id']}?wait=60")

    def picture(self, url: str) -> Image.Image:
        return Image.open(io.BytesIO(self.get(url).content))


def client_of(service: Service) -> Client:
    return Client(TestClient(build_app(service), raise_server_exceptions=False), service)


@pytest.fixture(scope="session")
def client(engine, facts) -> Iterator[Client]:
    service = Service([LocalWorker(engine)], facts)
    yield client_of(service)
    service.board.close()


@dataclass
class TestWorker:
    """Every step of a run waits until the test lets it go on; made: what it gives back."""

    __test__ = False
    made: Result
    steps: int = 3
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    failing: list[Exception] = field(default_factory=list)
    ran: list[Any] = field(default_factory=list)

    def run(self, asked: Any, progress: Callable[[str, int, int], None]) -> Result:
        self.ran.append(asked)
        for step in range(self.steps):
            assert self.turns.acquire(timeout=30)
            progress("sample", step + 1, self.steps)
            if self.failing:
                raise self.failing.pop()
        return self.made

    def go(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.turns.release()

    def files(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="session")
def made(engine) -> Result:
    return engine.generate("an apple", seed=1, decode_passes=1)


@pytest.fixture
def held(made, facts) -> Iterator[Any]:
    """Gives (client, workers) of a server with limits of the test's choosing; nothing runs by itself."""
    services: list[tuple[Service, list[TestWorker]]] = []

    def start(limits: Limits | None = None, workers: int = 1) -> tuple[Client, list[TestWorker]]:
        own = [TestWorker(made) for _ in range(workers)]
        service = Service(own, facts, limits)
        services.append((service, own))
        return client_of(service), own

    yield start
    for service, own in services:
        for worker in own:
            worker.go(1000)
        service.board.close()
