"""Axes for the host's X/Y/Z plot.

An axis leaves its value on the cell's own copy of the processing object; the run reads its settings with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.hosts.forge import callers, control, webui
from lib_layerdiffusion.hosts.forge.family import loaded_family
from lib_layerdiffusion.hosts.forge.results import say
from lib_layerdiffusion.images.arithmetic import ResizeMode
from lib_layerdiffusion.methods import METHODS, LayerMethod
from lib_layerdiffusion.settings.fields import FIELDS, PASS_COUNTS, SettingField, by_own_names
from lib_layerdiffusion.settings.parsing import LayerSettings

ATTRIBUTE = "layerdiffusion_axis_values"
PLOT_FILE = "xyz_grid.py"
LABEL_PREFIX = "[LayerDiffusion] "
EMPTY_CELL = "LayerDiffusion: {count} of the plot's cells are empty, because: {reason}"
MODEL_AXES = frozenset({"Checkpoint name"})
"""Axes of the host's under which methods of several families may stand."""
_ROWS = {row.name: row for row in FIELDS}


@dataclass(frozen=True)
class Axis:
    """One axis.

    kind: what the plot makes of each entry. choices: all values, as text. cost: the plot changes the costliest axis
    least often.
    """

    name: str
    kind: type
    choices: tuple[str, ...] = ()
    cost: float = 0.0

    @property
    def row(self) -> SettingField:
        """The setting that it varies."""
        return _ROWS[self.name]

    @property
    def label(self) -> str:
        """Its name in the plot's menus."""
        return f"{LABEL_PREFIX}{self.row.label}"

    def apply(self, p: Any, value: object, _values: object) -> None:
        """Set the value for one cell; `p` is a copy that shares everything it holds with the other cells' copies."""
        setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), self.name: value})

    def confirm(self, p: Any, values: Sequence[object]) -> None:
        """Check all values before the first cell is made; what goes wrong in a cell is on the console alone.

        Raises:
            SettingsError: one is not valid; the message says which are.
            ModelError: a method is not made for the loaded model, and no other axis changes that.
        """
        read = [self.row.read(value) for value in values]
        family = None if p is None else loaded_family(p.sd_model)
        if family is None or changes_model(p):
            return
        for value in read:
            if isinstance(value, LayerMethod):
                LayerSettings(method=value).validate_for(family)


def changes_model(p: Any) -> bool:
    """Whether another axis of the plot that runs `p` goes over checkpoints."""
    plot = callers.selected(p)
    options = getattr(plot, "current_axis_options", ())
    chosen = p.script_args[plot.args_from : plot.args_to][:9:3] if plot is not None else ()
    return any(isinstance(n, int) and n < len(options) and options[n].label in MODEL_AXES for n in chosen)


AXES = (
    Axis("method", str, tuple(METHODS), cost=0.5),
    Axis("weight", float),
    Axis("stop_at", float),
    Axis("decode_passes", int, tuple(map(str, PASS_COUNTS))),
    Axis("resize_mode", str, tuple(mode.value for mode in ResizeMode)),
)


def add_axes(is_ours: Callable[[Any], bool]) -> None:
    """Give the host's X/Y/Z plot our axes, unless it has them; without the plot nothing happens.

    is_ours: tells this extension's script. With it on, what goes wrong in a cell is said below the plot.
    """
    data = webui.script_data(PLOT_FILE)
    if data is None or not hasattr(data.module, "axis_options"):
        return
    plot = data.module
    known = {option.label for option in plot.axis_options}
    plot.axis_options.extend(_option(plot, axis) for axis in AXES if axis.label not in known)
    control.extend(data.script_class, "run", partial(_telling, plot, is_ours))


def _telling(plot: Any, is_ours: Callable[[Any], bool], own: Callable[..., Any]) -> Callable[..., Any]:
    """The plot's `run`, which leaves a cell empty where something goes wrong and writes why on its console."""

    def run(script: Any, p: Any, *arguments: Any) -> Any:
        if not callers.settings_of(p, is_ours).enabled:
            return own(script, p, *arguments)
        failed: list[str] = []
        process = plot.process_images

        def process_cell(cell: Any) -> Any:
            try:
                return process(cell)
            except Exception as error:
                failed.append(str(error) if isinstance(error, LayerDiffusionError) else repr(error))
                raise

        plot.process_images = process_cell
        try:
            processed = own(script, p, *arguments)
        finally:
            plot.process_images = process
        for sentence in dict.fromkeys(failed):
            say(processed, EMPTY_CELL.format(count=failed.count(sentence), reason=sentence))
        return processed

    return run


def _option(plot: Any, axis: Axis) -> Any:
    choices: Callable[[], list[str]] | None = (lambda: list(axis.choices)) if axis.choices else None
    # Method labels fill a column's width by themselves; a number needs its axis' name.
    shown = {"format_value": plot.format_value} if axis.kind is str and hasattr(plot, "format_value") else {}
    return plot.AxisOption(
        axis.label, axis.kind, axis.apply, confirm=axis.confirm, cost=axis.cost, choices=choices, **shown
    )


def with_axis_values(p: Any, args: Sequence[object]) -> Sequence[object]:
    """The script's arguments with the values of this cell's axes; a cell of our axes has LayerDiffusion on.

    Raises:
        SettingsError: the arguments are a mapping with unknown names.
    """
    values: Mapping[str, object] = vars(p).get(ATTRIBUTE, {})
    if not values:
        return args
    values = {**values, "enabled": True}
    if args and isinstance(args[0], Mapping):
        return [{**by_own_names(args[0]), **values}]
    padded = [*args, *[None] * (len(FIELDS) - len(args))]
    own = [values.get(row.name, given) for row, given in zip(FIELDS, padded, strict=False)]
    return [*own, *padded[len(FIELDS) :]]
