"""What gradio 4 renamed or added, for pages on gradio 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

_MANY = getattr(gr, "on", None)
_JS = "js" if _MANY is not None else "_js"


def js(script: str) -> dict[str, str]:
    """The argument of an event that runs `script` in the browser."""
    return {_JS: script}


def choices(named: Sequence[tuple[str, str]]) -> list[tuple[str, str]] | list[str]:
    """A menu's choices, (shown, value); gradio 3 shows values as they are."""
    return list(named) if _MANY is not None else [value for _, value in named]


def on(triggers: Sequence[Callable[..., Any]], inputs: Sequence[Any], outputs: Sequence[Any], script: str) -> None:
    """Run `script` in the browser at each of the events."""
    if _MANY is not None:
        _MANY(triggers, None, inputs, outputs, js=script)
        return
    for trigger in triggers:
        trigger(None, inputs, outputs, **js(script))
