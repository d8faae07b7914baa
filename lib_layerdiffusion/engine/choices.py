"""The optional arguments of `LayerDiffusion.generate`, each with what it does: one table for types, errors and help."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_type_hints

from typing_extensions import TypedDict

from lib_layerdiffusion.errors import SettingsError, quoted
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.parsing import LatentScale, ResizeMode

Function = TypeVar("Function", bound=Callable[..., Any])
_WIDTH = 110


class Choices(TypedDict, total=False):
    """The optional arguments of `LayerDiffusion.generate`; None means the default everywhere."""

    negative_prompt: Annotated[str, "What the picture should not show."]
    steps: Annotated[int | None, "Of the sampler, 1 to 1000; default the model's."]
    guidance: Annotated[float | None, "Classifier-free guidance, 0 to 100; default the model's; 1 switches it off."]
    sampler: Annotated[str, "A1111's name (\"DPM++ 2M Karras\") or a diffusers class; default the model's own."]
    foreground: Annotated[object, "Condition picture, where the method needs it: a path, Pillow image, array or bytes."]
    background: Annotated[object, "As `foreground`."]
    blended: Annotated[object, "As `foreground`."]
    init_image: Annotated[object, "RGBA or RGB picture to start from."]
    strength: Annotated[float, "Share of the schedule that runs on `init_image`, above 0 to 1; default 0.75."]
    mask: Annotated[object, "White where `init_image` is made anew; outside nothing changes, alpha included."]
    weight: Annotated[float, "Strength of the layer model, 0 to 2; default 1."]
    stop_at: Annotated[float, "Share of the schedule after which the untouched model finishes the picture; default 1."]
    layer_prompts: Annotated[
        Mapping[Layer | str, str], "Layer -> prompt that goes before the main one in that layer's frame."
    ]
    resize_mode: Annotated[
        ResizeMode | str,
        'How condition pictures are brought to size: "Just Resize", "Crop and Resize" (default), "Resize and Fill".',
    ]
    decode_passes: Annotated[
        int | None, "8, 4, 2 or 1; default: the model's. Fewer are faster, and rougher at the edges."
    ]
    latent_scale: Annotated[LatentScale | str, 'Which latent the decoder reads; default "VAE latent", as in the paper.']
    preview: Annotated[bool, "Also give each RGBA layer over a checkerboard; default True."]
    prompt_aid: Annotated[bool, "Ask for a plain grey background in the frames that come out with alpha."]
    edge_cleanup: Annotated[float, "Strength of the colour decontamination of soft edges, 0 (off, default) to 1."]
    alpha_low: Annotated[float, "Alpha up to this value, 0 (default) to 0.45, becomes 0."]
    alpha_high: Annotated[float, "Alpha from this value on, 0.55 to 1 (default), becomes 1."]
    trim: Annotated[bool, "Cut off what is clear around RGBA layers; layered files keep their place."]
    rgb_and_mask: Annotated[bool, "Also give each RGBA layer as padded colour and as a grey mask."]
    output_origin: Annotated[bool, "Also give RGBA layers as they were before their alpha was decoded."]
    options: Annotated[
        Mapping[str, Any], "More arguments for the pipeline's own call, such as ControlNet's and IP-Adapter's pictures."
    ]


def check_names(names: Iterable[str]) -> None:
    """Raise SettingsError where one of these is no argument."""
    known = Choices.__annotations__
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {quoted(close[0])}?" if close else "help(LayerDiffusion.generate) lists them."
            raise SettingsError(f"There is no argument {quoted(name)}: {hint}")


def lists_choices(function: Function) -> Function:
    """Put every choice into a function's signature and help, in place of its `**choices`."""
    hints = get_type_hints(Choices, include_extras=True)
    plain = inspect.signature(function)
    own = [row for row in plain.parameters.values() if row.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint.__origin__)
        for name, hint in hints.items()
    ]
    listed = [f"{name}: {hint.__metadata__[0]}" for name, hint in hints.items()]
    wrapped = ["\n".join(textwrap.wrap(line, _WIDTH, subsequent_indent="    ")) for line in listed]
    text = textwrap.indent("\n".join(wrapped), "    ")
    function.__doc__ = f"{inspect.getdoc(function)}\n\nChoices:\n{text}\n"
    vars(function)["__signature__"] = plain.replace(parameters=[*own, *more])
    return function
