"""Gradio moves arguments about between its major releases: each is given to whoever takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def taken(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that this release's `function` has by name."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}
