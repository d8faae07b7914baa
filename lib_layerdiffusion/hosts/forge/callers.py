"""Which of the host's selectable scripts asks for pictures, and what it does with what it gets.

A method of several frames makes several pictures for each that a script asked for; a script that lays pictures out
counts on one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from lib_layerdiffusion.errors import HostError, LayerDiffusionError
from lib_layerdiffusion.hosts.forge import options
from lib_layerdiffusion.methods import LayerMethod
from lib_layerdiffusion.settings.parsing import LayerSettings


class Use(Enum):
    """What a script does with the pictures of a run."""

    ALL = "takes all as they come"
    EACH = "takes one picture for each prompt of a list"
    ONE = "takes the first picture"
    TILES = "joins pictures as tiles, alpha included"
    OPAQUE = "joins pictures without alpha"


SCRIPTS: Mapping[str, Use] = {
    "prompt matrix": Use.EACH,
    "x/y/z plot": Use.ONE,
    "sd upscale": Use.TILES,
    "outpainting mk2": Use.OPAQUE,
    "poor man's outpainting": Use.OPAQUE,
    "ultimate sd upscale": Use.OPAQUE,
}
"""By title in lower case; any other script takes all pictures as they come."""


def selected(p: Any) -> Any:
    """The selectable script that runs `p`, None where there is none."""
    arguments, runner = getattr(p, "script_args", None), getattr(p, "scripts", None)
    number = arguments[0] if arguments else 0
    listed = getattr(runner, "selectable_scripts", ())
    return listed[number - 1] if isinstance(number, int) and 0 < number <= len(listed) else None


def title_of(script: Any) -> str:
    """What the page calls a script, "" for none."""
    return str(script.title()) if script is not None else ""


def use_of(p: Any) -> Use:
    """What happens to the pictures of `p`."""
    return SCRIPTS.get(title_of(selected(p)).strip().lower(), Use.ALL)


def settings_of(p: Any, is_ours: Callable[[Any], bool]) -> LayerSettings:
    """What this extension's script is told on `p`; what is wrong with it is said by the runs that follow.

    is_ours: tells this extension's script.
    """
    own = next((script for script in getattr(p.scripts, "alwayson_scripts", ()) if is_ours(script)), None)
    try:
        given = [] if own is None else p.script_args[own.args_from : own.args_to]
        return LayerSettings.from_args(given, defaults=options.defaults())
    except LayerDiffusionError:
        return LayerSettings()


def check(p: Any, method: LayerMethod) -> None:
    """Make sure that the script which runs `p` leaves the method's pictures what they are.

    Raises:
        HostError: it would drop their alpha, or take frames for tiles; the message says what to do instead.
    """
    use, title = use_of(p), title_of(selected(p))
    if use is Use.OPAQUE and method.has_alpha:
        raise HostError(
            f'"{title}" puts its pictures together without alpha: enlarge the picture\'s canvas in an editor and '
            "inpaint the new area, or switch LayerDiffusion off."
        )
    if use is Use.TILES and method.frame_count > 1:
        raise HostError(
            f'"{title}" takes one picture for each tile and this method makes {method.frame_count}: choose a method '
            "that makes one picture."
        )
