"""What one call of the engine asks for, validated before anything heavy begins."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np

from lib_layerdiffusion.engine.choices import Choices, check_names
from lib_layerdiffusion.errors import SettingsError, quoted
from lib_layerdiffusion.images.files import load_picture
from lib_layerdiffusion.images.reading import Picture
from lib_layerdiffusion.images.start import resized_rgba
from lib_layerdiffusion.methods import Layer, LayerMethod
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.infotext import format_parameters, to_infotext
from lib_layerdiffusion.settings.kinds import Kind
from lib_layerdiffusion.settings.parsing import LayerSettings

LATENT_FACTOR = 8
SMALLEST_SIDE, LARGEST_SIDE, LARGEST_AREA = 64, 8192, 4096 * 4096
LARGEST_SEED = 2**63 - 1

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all); stages are "sample" and "decode". Raising in it stops the run."""

VALUES: Mapping[str, Kind] = MappingProxyType(
    {
        "prompt": kinds.text(strip=False),
        "negative_prompt": kinds.text(strip=False),
        "seed": kinds.whole(0, LARGEST_SEED),
        "width": kinds.whole(SMALLEST_SIDE, LARGEST_SIDE, "pixels"),
        "height": kinds.whole(SMALLEST_SIDE, LARGEST_SIDE, "pixels"),
        "steps": kinds.whole(1, 1000),
        "guidance": kinds.number(0, 100),
        "sampler": kinds.text(),
        "batch": kinds.whole(1, 256),
        "strength": kinds.number(0, 1),
    }
)
"""How each plain value of a request is read, wherever it comes from: library, command, JSONL, page or API."""
_ATTRIBUTES = {"negative_prompt": "negative"}


@dataclass(frozen=True)
class PictureRequest:
    """A validated call.

    width, height: pixels, multiples of 8. batch: pictures, each with all layers of its method. init: picture to start
    from, resized to the size. strength: share of the schedule that runs on it, above 0 to 1. mask: grey [H, W], white
    where `init` is made anew. sampler: "" for the model's own. options: more arguments of the pipeline's call.

    Raises:
        SettingsError: a value is out of range.
    """

    prompt: str
    settings: LayerSettings
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    negative: str = ""
    sampler: str = ""
    batch: int = 1
    init: Picture | None = None
    strength: float = 1.0
    mask: Picture | None = None
    progress: Progress | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name, kind in VALUES.items():
            attribute = _ATTRIBUTES.get(name, name)
            object.__setattr__(self, attribute, kind.read(name, getattr(self, attribute)))
        check_size(self.width, self.height)
        if self.init is None:
            if self.mask is not None:
                raise SettingsError("A mask needs an init picture that it belongs to.")
            return
        if self.mask is not None and not (self.mask[..., :3] > 127).any():
            raise SettingsError("The mask is black everywhere: paint white what is to be made anew.")
        if int(self.steps * self.strength) < 1:
            raise SettingsError(
                f"Strength {self.strength:g} of {self.steps} steps leaves no step to run: raise either of them."
            )

    @property
    def seeds(self) -> list[int]:
        """One seed for every batch item, frames counted singly, as WebUIs count them."""
        return [
            (self.seed + index) % (LARGEST_SEED + 1) for index in range(self.batch * self.settings.method.frame_count)
        ]

    def decode_passes_of(self, index: int) -> int:
        """Passes of decoders that batch item `index` takes: the VAE's, and those of the transparency decoder."""
        return 1 + (self.settings.decode_passes if self.settings.method.is_rgba(index) else 0)

    def infotext(self, index: int, model: str, sampler: Mapping[str, str], version: str) -> str:
        """The infotext of picture `index`, in the words of A1111 and Forge.

        sampler: "Sampler" and, where one is chosen, "Schedule type".
        """
        values: dict[str, object] = {"Steps": self.steps, **sampler, "CFG scale": f"{self.guidance:g}"}
        values["Seed"] = self.seeds[index * self.settings.method.frame_count]
        values |= {"Size": f"{self.width}x{self.height}", "Model": model}
        if self.init is not None:
            values["Denoising strength"] = f"{self.strength:g}"
        values |= to_infotext(self.settings)
        values["Version"] = version
        lines = [self.prompt, f"Negative prompt: {self.negative}" if self.negative else "", format_parameters(values)]
        return "\n".join(line for line in lines if line)


_PASSED_ON = tuple(row.name for row in FIELDS if row.attribute in Choices.__annotations__ and row.layer is None)


class Defaults(Protocol):
    """What a model says for arguments that are left out.

    decode_passes: with how many its decoder does best. sizes: the only ones (width, height) that it makes; empty where
    it makes any. default_size: a side in pixels.
    """

    steps: int
    guidance: float
    decode_passes: int
    sizes: tuple[tuple[int, int], ...]

    @property
    def default_size(self) -> int:
        """Side of the pictures that the model was trained on."""
        ...


def layer_settings(method: LayerMethod, choices: Choices, defaults: Defaults) -> LayerSettings:
    """The settings in the arguments of `generate`, or the model's; pictures are read.

    Raises:
        SettingsError, InputError: one of them cannot be used, or a picture is missing.
    """
    values: dict[str, object] = {"enabled": True, "method": method}
    values |= {name: value for name, value in choices.items() if name in _PASSED_ON}
    if values.get("decode_passes") is None:
        values["decode_passes"] = defaults.decode_passes
    for layer in Layer:
        values[layer.value] = optional_picture(choices.get(layer.value), layer.value)
    for layer, text in _mapping("layer_prompts", choices.get("layer_prompts")).items():
        if layer not in list(Layer):
            raise SettingsError(f"There is no layer {quoted(layer)}; use one of: {', '.join(Layer)}.")
        values[f"{Layer(layer).value}_prompt"] = text
    settings = LayerSettings.from_mapping(values)
    settings.condition_pictures()
    return settings


def build_request(
    prompt: str,
    method: LayerMethod,
    choices: Choices,
    defaults: Defaults,
    *,
    seed: int | None = None,
    size: object = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> PictureRequest:
    """Turn the arguments of `generate` into a request.

    Raises:
        SettingsError, InputError: one of them cannot be used; the message says which.
    """
    check_names(choices)
    plain = {**choices, "seed": seed, "batch": batch}
    given = {name: read_value(name, value) for name, value in plain.items() if name in VALUES}
    settings = layer_settings(method, choices, defaults)
    init = optional_picture(choices.get("init_image"), "init")
    width, height = _size(size, init, defaults)

    def chosen(name: str, default: Any) -> Any:
        value = given.get(name)
        return default if value is None else value

    return PictureRequest(
        prompt=prompt,
        settings=settings,
        seed=chosen("seed", random_seed()),
        width=width,
        height=height,
        steps=chosen("steps", defaults.steps),
        guidance=chosen("guidance", defaults.guidance),
        negative=chosen("negative_prompt", ""),
        sampler=chosen("sampler", ""),
        batch=chosen("batch", 1),
        init=None if init is None else resized_rgba(init, height, width),
        strength=chosen("strength", 0.75),
        mask=optional_picture(choices.get("mask"), "mask"),
        progress=progress,
        options=dict(_mapping("options", choices.get("options"))),
    )


def _mapping(name: str, value: object) -> Mapping[Any, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise SettingsError(f"{name} must be an object with names and values, not {quoted(value)}.")
    return cast("Mapping[Any, Any]", value or {})


def _size(size: object, init: Picture | None, defaults: Defaults) -> tuple[int, int]:
    if size is not None:
        width, height = parse_size(size)
    elif init is not None:
        height, width = (side - side % LATENT_FACTOR for side in init.shape[:2])
        if defaults.sizes:
            shape = math.log(width / height)
            width, height = min(defaults.sizes, key=lambda known: abs(math.log(known[0] / known[1]) - shape))
    else:
        width = height = defaults.default_size
    check_size(width, height)
    return width, height


_ANY_SIDE = kinds.whole(0, 10**12)


def check_known_size(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> None:
    """Raise SettingsError where a model makes some sizes only and this is none of them.

    A small model gives nonsense at any size that it was not trained on, and the user could not know why.
    """
    if sizes and (width, height) not in sizes:
        known = " or ".join(f"{known[0]}x{known[1]}" for known in sizes)
        raise SettingsError(f"This model makes pictures of {known} only, not of {width}x{height}: choose that size.")


def read_value(name: str, raw: object) -> Any:
    """A value of `VALUES` by its name, checked; None stays None, for what a model has a default for.

    Raises:
        SettingsError: it is of the wrong type or out of range.
    """
    return None if raw is None else VALUES[name].read(name, raw)


def check_size(width: object, height: object) -> None:
    """Raise SettingsError unless width x height is a size that can be generated."""
    shown = quoted(f"{quoted(width)[1:-1]}x{quoted(height)[1:-1]}")[1:-1]
    try:
        sides = (read_value("width", width), read_value("height", height))
    except SettingsError as error:
        raise SettingsError(
            f"A picture of {shown} cannot be made: each side must be from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels."
        ) from error
    if any(side % LATENT_FACTOR for side in sides):
        raise SettingsError(f"A picture of {shown} cannot be made: each side must be a multiple of 8.")
    if sides[0] * sides[1] > LARGEST_AREA:
        raise SettingsError(f"A picture of {shown} is too large: use at most {LARGEST_AREA >> 20} megapixels.")


def parse_size(text: object) -> tuple[int, int]:
    """Width and height from "1024x768", [1024, 768] or 1024.

    Raises:
        SettingsError: it is none of these.
    """
    parts: Any = text.lower().replace("*", "x").split("x") if isinstance(text, str) else text
    parts = parts if isinstance(parts, list | tuple) or (isinstance(parts, np.ndarray) and parts.ndim) else [parts]
    try:
        sides = [cast("int", _ANY_SIDE.read("size", part)) for part in parts]
    except SettingsError:
        sides = []
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise SettingsError(f"The size {quoted(text)} is unclear: write width x height, such as 1024x768.")
    return sides[0], sides[1]


def random_seed() -> int:
    """A seed of the range that WebUIs draw from."""
    return secrets.randbelow(2**32)


def optional_picture(source: object, name: str) -> Picture | None:
    """A picture from a path or memory, None for None.

    Raises:
        InputError: it cannot be used.
    """
    return None if source is None else load_picture(source, name)
