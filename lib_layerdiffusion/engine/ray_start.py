"""Ray's beginning, for the batch job and for the server: is it there, and is it on."""

from __future__ import annotations

import importlib
from typing import Any

from lib_layerdiffusion.errors import HostError


def started(part: str, **cluster: Any) -> Any:
    """Ray, initialised, with its library `part` ("data", "serve") imported.

    cluster: arguments of `ray.init`, for a cluster that is not the one of the environment.

    Raises:
        HostError: Ray or that library of it is not installed.
    """
    try:
        ray = importlib.import_module("ray")
        importlib.import_module(f"ray.{part}")
    except ModuleNotFoundError as error:
        raise HostError(f"Ray is not installed, or not all of it: run \"pip install 'ray[{part}]'\".") from error
    if not ray.is_initialized():
        ray.init(**cluster)
    return ray


def gpus_of(ray: Any) -> int:
    """How many GPUs the cluster has."""
    return int(ray.cluster_resources().get("GPU", 0))
