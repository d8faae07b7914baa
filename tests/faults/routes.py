"""Whatever a schema allows and much that it does not, sent to every route by schemathesis; no answer may be a 500.

    python -m tests.faults.routes server --seconds 60     # of `layerdiffusion serve`, on a tiny model
    python -m tests.faults.routes forge --seconds 60      # of the API that Forge gets, on the fake host

Needs schemathesis (`pip install schemathesis`, also in an environment of its own: --tool PATH).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from lib_layerdiffusion.server.routes import PREFIX


@contextmanager
def of_the_server(folder: Path) -> Iterator[str]:
    from lib_layerdiffusion.hosts.diffusers.samplers import SAMPLER_NAMES, SCHEDULE_NAMES
    from lib_layerdiffusion.server.app import WEB
    from lib_layerdiffusion.server.guard import Doors
    from lib_layerdiffusion.server.model import ModelFacts
    from lib_layerdiffusion.server.service import Service
    from lib_layerdiffusion.server.serving import served
    from lib_layerdiffusion.server.workers import LocalWorker
    from tests.tiny_family import new_engine, write_layers

    engine = new_engine(write_layers(folder))
    service = Service([LocalWorker(engine)], ModelFacts.of(engine, SAMPLER_NAMES, SCHEDULE_NAMES), web=WEB)
    with served(service, Doors()) as address:
        yield f"{address}{PREFIX}/openapi.json"


@contextmanager
def of_forge(folder: Path) -> Iterator[str]:
    from tests.hosts.forge.conftest import _play

    _play("forge")
    from tests.hosts.forge.hosts import FakeForge

    host = FakeForge(folder)
    host.use("sd15")
    from lib_layerdiffusion.hosts.forge import api

    app = FastAPI()

    @app.get(api.HOST_ROUTE)
    def options() -> dict[str, str]:
        return {}

    api.add_routes(host.script_class.models, app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/openapi.json"
    server.should_exit = True
    thread.join()


APIS = {"server": of_the_server, "forge": of_forge}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.routes")
    parser.add_argument("api", choices=APIS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--tool", default="schemathesis")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="layerdiffusion-faults-") as folder,
        APIS[arguments.api](Path(folder)) as at,
    ):
        command = [arguments.tool, "run", at, "--checks", "not_a_server_error", "--warnings", "off"]
        command += ["--max-time", str(arguments.seconds), "--continue-on-failure", "--seed", "0"]
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
