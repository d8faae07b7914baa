"""Routes beside the host's own: `server.routes` on the loaded checkpoint, one at a time with the host's runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from modules.call_queue import queue_lock
from torch import Tensor

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.hosts.forge import codec, options
from lib_layerdiffusion.hosts.forge.earlier import is_name
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.server.routes import PREFIX, shared_routes
from lib_layerdiffusion.weights import FileStatus

HOST_ROUTE = "/sdapi/v1/options"


class ForgeRouteHost:
    """The host as `server.routes` sees it."""

    def __init__(self, models: ForgeModels) -> None:
        self._models = models

    def loaded_family(self) -> Family | None:
        """Family of the loaded checkpoint, None where there is none that methods are made for."""
        try:
            return codec.loaded_family()
        except LayerDiffusionError:
            return None

    def files(self) -> Mapping[str, FileStatus]:
        """Layer files by their catalogue names."""
        return {status.file.name: status for status in self._models.store.status()}

    def find(self, value: object) -> object:
        """The earlier result that a value names, or the value itself."""
        return self._models.earlier.find(cast("str", value)) if is_name(value) else value

    def default_passes(self) -> int:
        """Decode passes as the settings page has them."""
        return cast("int", options.defaults()["decode_passes"])

    def encode(self, rgba: Picture) -> tuple[Picture, Tensor, Family]:
        """As `codec.encode`, and the checkpoint's family."""
        with queue_lock:
            picture, latent = codec.encode(rgba, self._models)
            return picture, latent, codec.loaded_family()

    def decode(self, latent: Tensor, picture: Picture | None, family: Family | None, passes: int) -> Picture:
        """As `codec.decode`."""
        with queue_lock:
            return codec.decode(latent, picture, family, passes, self._models)


def add_routes(models: ForgeModels, app: FastAPI) -> bool:
    """Add the routes where the host serves its own API, behind the same login; returns whether it does."""
    host_route: Any = next((route for route in app.routes if getattr(route, "path", "") == HOST_ROUTE), None)
    if host_route is None:
        return False
    for verb, path, endpoint in shared_routes(ForgeRouteHost(models)):
        dependencies = list(host_route.dependencies)
        app.add_api_route(
            f"{PREFIX}/{path}", endpoint, methods=[verb], dependencies=dependencies, tags=["LayerDiffusion"]
        )
    return True
