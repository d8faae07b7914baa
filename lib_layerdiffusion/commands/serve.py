"""`layerdiffusion serve` and `layerdiffusion ui`: the server, without and with the page."""

from __future__ import annotations

import argparse
import signal
import sys
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib_layerdiffusion.commands.common import add_command, add_model_arguments, library, model_arguments
from lib_layerdiffusion.errors import HostError

if TYPE_CHECKING:
    from lib_layerdiffusion.server.service import Service

LOCAL, PORT = "127.0.0.1", 7860
MOST_WORKERS = 64


def add_parsers(subparsers: Any) -> None:
    """Register both commands."""
    serve = add_command(
        subparsers,
        "serve",
        "serve the API: jobs, progress, pictures (extra [serve])",
        "",
        "--checkpoint juggernautXL.safetensors --workers 2",
        "--host 0.0.0.0 --auth me:secret",
    )
    page = add_command(
        subparsers,
        "ui",
        "serve the page in the browser, and the API (extra [ui])",
        "--open",
        "--open --checkpoint juggernautXL.safetensors",
    )
    for parser in (serve, page):
        parser.add_argument(
            "--host", default=LOCAL, help="address to listen on; 0.0.0.0 lets the network in (default %(default)s)"
        )
        parser.add_argument("--port", default=PORT, help="port, 0 for a free one (default %(default)s)")
        parser.add_argument("--auth", default="", metavar="USER:PASSWORD", help="ask for a login")
        parser.add_argument(
            "--allow-host", action="append", default=[], metavar="NAME", help="a name that the server is called by"
        )
        parser.add_argument("--workers", default=1, help="engines, one for each GPU (default %(default)s)")
        add_model_arguments(parser)
    serve.add_argument("--ray", action="store_true", help="engines on a Ray cluster (extra [ray])")
    page.add_argument("--open", action="store_true", help="open the page in the browser")
    serve.set_defaults(run=_run_serve)
    page.set_defaults(run=_run_page, ray=False)


def _run_serve(arguments: argparse.Namespace) -> int:
    return _run(arguments, "API", with_page=False, opened=None)


def _run_page(arguments: argparse.Namespace) -> int:
    return _run(arguments, "page", with_page=True, opened=webbrowser.open if arguments.open else None)


def _run(arguments: argparse.Namespace, what: str, *, with_page: bool, opened: Callable[[str], object] | None) -> int:
    """Serve until Ctrl+C.

    Raises:
        LayerDiffusionError: an argument or the model cannot be used, or a package is missing.
    """
    try:
        from lib_layerdiffusion.server.app import WEB
        from lib_layerdiffusion.server.limits import Limits
        from lib_layerdiffusion.server.serving import doors_of, serve
        from lib_layerdiffusion.settings import kinds
    except ModuleNotFoundError as error:
        raise HostError(f'The server needs {error.name}: install it with "pip install fastapi uvicorn".') from error
    # As Ctrl+C, so that everything that has an end of its own comes to it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds.read_options(arguments, {"--workers": kinds.whole(1, MOST_WORKERS), "--port": kinds.whole(0, 65535)})
    limits = Limits()
    doors = doors_of(arguments.host, arguments.auth, frozenset(arguments.allow_host), limits.body_bytes)
    service = _service(arguments, limits, WEB if with_page else None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own in its place

    def announce(address: str) -> None:
        sys.stdout.write(f"LayerDiffusion's {what} is at {address} (Ctrl+C ends it)\n")
        sys.stdout.flush()
        if opened is not None:
            opened(address)

    serve(service, doors, arguments.port, announce)
    return 0


def _service(arguments: argparse.Namespace, limits: Any, web: Any) -> Service:
    load = library().from_checkpoint
    from lib_layerdiffusion.hosts.diffusers import SAMPLER_NAMES
    from lib_layerdiffusion.hosts.diffusers.samplers import SCHEDULE_NAMES
    from lib_layerdiffusion.server.model import ModelFacts
    from lib_layerdiffusion.server.service import Service
    from lib_layerdiffusion.server.workers import LocalWorker

    if arguments.ray:
        from lib_layerdiffusion.server.ray_serve import Plan, deploy

        plan = Plan(load, model_arguments(arguments), SAMPLER_NAMES, SCHEDULE_NAMES)
        workers, facts = deploy(plan, arguments.workers)
        return Service(workers, facts, limits, web)
    models = _models(arguments.workers, model_arguments(arguments))
    engines = [load(**model) for model in models]
    facts = ModelFacts.of(engines[0], SAMPLER_NAMES, SCHEDULE_NAMES)
    return Service([LocalWorker(engine) for engine in engines], facts, limits, web)


def _models(count: int, model: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of each engine, taking turns on several GPUs."""
    import torch

    gpus = torch.cuda.device_count() if model["device"] in {None, "cuda"} else 0
    devices = [f"cuda:{index % gpus}" if gpus > 1 else model["device"] for index in range(count)]
    return [{**model, "device": device} for device in devices]
