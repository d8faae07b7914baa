"""LayerDiffusion's section of the host's settings page, and its values as the rest of the adapter needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from modules import options as host_options
from modules import shared

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.images.arithmetic import PREVIEW_BACKGROUNDS
from lib_layerdiffusion.images.layerfile import ENDINGS
from lib_layerdiffusion.interface import wording
from lib_layerdiffusion.interface.controls import control
from lib_layerdiffusion.interface.wording import EXTRAS
from lib_layerdiffusion.settings.fields import FIELDS, START_VALUES, SettingField

SECTION = ("layerdiffusion", "LayerDiffusion")
PREFIX = "layerdiffusion_"
GIB = 1 << 30
_ROWS = {row.name: row for row in FIELDS}
_LAYER_FILES = (wording.NO_LAYER_FILE, *ENDINGS)
_COMPILED = False
_DEFAULT_BACKGROUND = next(iter(PREVIEW_BACKGROUNDS))


def add() -> None:
    """Add the section."""
    for name, info in host_options.options_section(SECTION, _section()).items():
        shared.opts.add_option(PREFIX + name, info)


def _section() -> dict[str, Any]:
    return {
        **{name: _default_of(_ROWS[name]) for name in START_VALUES},
        "preview_background": _own(
            "preview_background", _DEFAULT_BACKGROUND, gr.Radio, {"choices": list(PREVIEW_BACKGROUNDS)}
        ),
        "layer_file": _own("layer_file", _LAYER_FILES[0], gr.Radio, {"choices": list(_LAYER_FILES)}),
        "extras_alpha": _own("extras_alpha", EXTRAS[0], gr.Radio, {"choices": list(EXTRAS)}),
        "memory_limit": _own("memory_limit", 0, gr.Slider, {"minimum": 0, "maximum": 48, "step": 0.5}),
        "compiled": _own("compiled", _COMPILED),
        # A client of the API must not point the server at another folder or address.
        "models_dir": _own("models_dir", "", restrict_api=True).needs_restart(),
        "mirror": _own("mirror", "", restrict_api=True).needs_restart(),
    }


def _own(name: str, *arguments: Any, **more: Any) -> Any:
    label, explanation = wording.SETTINGS_PAGE[name]
    option = host_options.OptionInfo(arguments[0], label, *arguments[1:], **more)
    return option.info(explanation) if explanation else option


def _default_of(row: SettingField) -> Any:
    component, arguments = control(row)
    value = row.kind.to_json(row.default)
    return (
        host_options.OptionInfo(value, wording.start_value(row), component, arguments).info(row.help).needs_reload_ui()
    )


def _value(name: str, otherwise: Any) -> Any:
    """What the settings page says; the page may not have been built yet, and its file is edited by hand."""
    value = getattr(shared.opts, PREFIX + name, None)
    return otherwise if value is None else value


def defaults() -> dict[str, object]:
    """Defaults of a run by name, for `LayerSettings.from_args`; what is no valid value counts as not given."""
    found: dict[str, object] = {}
    for name in START_VALUES:
        row = _ROWS[name]
        try:
            found[name] = row.read(_value(name, row.default))
        except LayerDiffusionError:
            found[name] = row.default
    return found


def preset(components: Mapping[str, Any]) -> None:
    """Let a new panel start with the defaults.

    The host's own memory of form values is told to pass over these controls, or it would stand against the page.
    """
    for name, value in defaults().items():
        components[name].value = _ROWS[name].kind.to_json(value)
        components[name].do_not_save_to_config = True


def preview_background() -> str:
    """A key of `images.PREVIEW_BACKGROUNDS`."""
    chosen = _value("preview_background", _DEFAULT_BACKGROUND)
    return chosen if chosen in PREVIEW_BACKGROUNDS else _DEFAULT_BACKGROUND


def layer_file() -> str:
    """Ending of the file that all layers of a picture are saved in as well, "" for none."""
    chosen = _value("layer_file", _LAYER_FILES[0])
    return chosen if chosen in ENDINGS else ""


def extras_alpha() -> str:
    """Which pictures keep their alpha in the Extras tab, one of `wording.EXTRAS`."""
    chosen = _value("extras_alpha", EXTRAS[0])
    return chosen if chosen in EXTRAS else EXTRAS[0]


def decode_memory(free: int) -> int:
    """Bytes that decoding may take where `free` bytes are free: half of them, and no more than the page allows."""
    limit = _value("memory_limit", 0)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        return free // 2
    return min(free // 2, int(limit * GIB))


def compiled() -> bool:
    """Whether the transparency decoder is compiled."""
    return _value("compiled", _COMPILED) is True


def models_dir() -> str:
    """Folder of the weight files, "" where the page does not say."""
    return str(_value("models_dir", "")).strip()


def mirror() -> str | None:
    """Address of a mirror, None where the page does not say."""
    return str(_value("mirror", "")).strip() or None
