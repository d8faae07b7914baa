"""What becomes of input that may be anything: a result, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib_layerdiffusion.errors import LayerDiffusionError


def result_of(call: Callable[..., Any], *args: Any) -> Any:
    """What a call gives, None where it refuses in one line."""
    try:
        return call(*args)
    except LayerDiffusionError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    return None
