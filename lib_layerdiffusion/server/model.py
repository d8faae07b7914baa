"""What the server tells of its model, and what it checks against it before an engine is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_layerdiffusion.engine.host import SamplingHost
from lib_layerdiffusion.engine.request import LARGEST_AREA, LARGEST_SIDE, SMALLEST_SIDE
from lib_layerdiffusion.engine.vocabulary import unknown_words
from lib_layerdiffusion.errors import ModelError, SettingsError, quoted
from lib_layerdiffusion.images.layerfile import writable_endings
from lib_layerdiffusion.interface import wording
from lib_layerdiffusion.interface.panel_follow import has_own_prompt
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod
from lib_layerdiffusion.settings.examples import examples_of
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.transparency import LATENT_FACTOR

SHAPES = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))
"""Aspect ratios that are offered where a model makes any."""
_GRID = 64
"""Sides of presets are multiples of this many pixels, as models were trained."""


@dataclass
class ModelFacts:
    """A loaded model as the server knows it; the same for each of its workers.

    sizes: the only ones (width, height) that it makes, empty for any. subjects, words: see `SamplingHost`. samplers,
    schedules: names that a request can choose, a schedule behind a sampler's name. own_sampler: what infotext calls
    the one that it uses where none is chosen. steps, guidance, decode_passes: its
    defaults.
    """

    name: str
    source: str
    families: tuple[Family, ...]
    methods: tuple[LayerMethod, ...]
    default_size: int
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    decode_passes: int
    subjects: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    samplers: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    own_sampler: str = ""

    @classmethod
    def of(cls, engine: Any, samplers: Sequence[str] = (), schedules: Sequence[str] = ()) -> ModelFacts:
        """The facts of an engine's model."""
        host: SamplingHost = engine.host
        side = host.default_size
        # What was trained on a list of subjects was trained on pictures of one size.
        sizes = host.sizes or (((side, side),) if host.subjects else ())
        return cls(
            name=host.name,
            source=host.source,
            families=host.families,
            methods=tuple(engine.methods),
            default_size=side,
            sizes=sizes,
            steps=host.steps,
            guidance=host.guidance,
            decode_passes=host.decode_passes,
            subjects=host.subjects,
            words=host.words,
            samplers=tuple(samplers),
            schedules=tuple(schedules),
            own_sampler=host.own_sampler,
        )

    def unknown_words(self, *prompts: str) -> tuple[str, ...]:
        """Words that the model does not know."""
        return unknown_words(prompts, self.words)

    @property
    def default_method(self) -> LayerMethod:
        """The plain transparent picture, by the first family that the model answers to."""
        rows = [row for family in self.families for row in METHODS.of_family(family) if row in self.methods]
        return next((row for row in rows if row.has_alpha and not row.inputs), rows[0])

    def own_method(self, name: object) -> LayerMethod:
        """The method that a label or short name means for the model, its default one for None.

        Raises:
            SettingsError: there is none. ModelError: it is for other models.
        """
        if name is None:
            return self.default_method
        text = str(name).strip()
        rows = [row for family in self.families for row in METHODS.of_family(family) if row.name == text]
        found = rows[0] if rows else METHODS.find(text)
        if found not in self.methods:
            raise ModelError(f"{quoted(found.label)} is not made for the loaded model: choose another method.")
        return found

    def check_sampler(self, name: str) -> None:
        """Raise SettingsError unless a request can choose this sampler."""
        known = {sampler.casefold() for sampler in self.samplers}
        known |= {f"{sampler} {schedule}".casefold() for sampler in self.samplers for schedule in self.schedules}
        if self.samplers and name.strip().casefold() not in known:
            listed = ", ".join(self.samplers)
            behind = f" (with or without {', '.join(self.schedules)} behind it)" if self.schedules else ""
            raise SettingsError(f"There is no sampler {quoted(name)}; use one of: {listed}{behind}.")

    def check_size(self, width: int, height: int) -> None:
        """Raise SettingsError unless the model makes pictures of this size."""
        if self.sizes and (width, height) not in self.sizes:
            raise SettingsError(f"This model makes pictures of {self._sizes_in_words} only, not of {width}x{height}.")

    @property
    def _sizes_in_words(self) -> str:
        return " or ".join(f"{width}x{height}" for width, height in self.sizes)

    @property
    def presets(self) -> list[dict[str, object]]:
        """Sizes to choose from: the model's own, or about as many pixels as it was trained on in several shapes."""
        if self.sizes:
            found = list(self.sizes)
        else:
            found = list(dict.fromkeys(_sides(self.default_size, *shape) for shape in SHAPES))
        return [{"label": _ratio(width, height), "width": width, "height": height} for width, height in found]

    @property
    def size_note(self) -> str | None:
        """What to know of sizes before choosing one."""
        if self.sizes:
            return f"This small model makes pictures of {self._sizes_in_words} only."
        return None

    def default_values(self) -> dict[str, object]:
        """A request's values where nothing is chosen."""
        values: dict[str, object] = {
            row.name: None if row.default is None else row.kind.to_json(row.default)
            for row in FIELDS
            if row.name != "enabled"
        }
        own = {"method": self.default_method.label, "decode_passes": self.decode_passes}
        sampling = {"steps": self.steps, "guidance": self.guidance, "sampler": "", "strength": 0.75, "seed": None}
        width, height = self.sizes[0] if self.sizes else (self.default_size, self.default_size)
        size = {"width": width, "height": height, "batch": 1, "init": None, "mask": None}
        prompt = {"prompt": next(iter(self.subjects), ""), "negative_prompt": "", "client": None, "attended": False}
        return {**values, **own, **sampling, **size, **prompt}

    def examples(self, thumbnails: Mapping[str, str]) -> list[dict[str, object]]:
        """What to begin with. thumbnails: subject in file-name form -> address of a picture of it."""
        if self.subjects:
            shown = [subject for subject in self.subjects if _slug(subject) in thumbnails]
            return [self._subject(subject, thumbnails.get(_slug(subject))) for subject in (shown or self.subjects)[:6]]
        found: list[dict[str, object]] = []
        for example in examples_of(self.families[0] if len(self.families) == 1 else None):
            methods = [row for family in self.families if (row := example.method_of(family)) in self.methods and row]
            if methods:
                prompts = {str(layer): text for layer, text in example.prompts.items()}
                told = {"name": example.name, "prompt": example.prompt, "negative_prompt": example.negative}
                found.append({**told, "method": methods[0].label, "prompts": prompts, "thumbnail": None})
        return found

    def _subject(self, subject: str, thumbnail: str | None) -> dict[str, object]:
        told = {"name": subject[:1].upper() + subject[1:], "prompt": subject, "negative_prompt": ""}
        return {**told, "method": self.default_method.label, "prompts": {}, "thumbnail": thumbnail}

    def to_mapping(self, thumbnails: Mapping[str, str]) -> dict[str, object]:
        """Everything that a page needs to know before the first run, as plain JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "families": [str(family) for family in self.families],
            "size": self.default_size,
            "sizes": self.presets,
            "fixed_size": bool(self.sizes),
            "size_note": self.size_note,
            "limits": {
                "smallest_side": SMALLEST_SIDE,
                "largest_side": LARGEST_SIDE,
                "multiple": LATENT_FACTOR,
                "largest_area": LARGEST_AREA,
            },
            "defaults": self.default_values(),
            "samplers": list(self.samplers),
            "schedules": list(self.schedules),
            "subjects": list(self.subjects),
            "examples": self.examples(thumbnails),
            "layer_files": [ending.removeprefix(".") for ending in writable_endings()],
        }

    def about_method(self, method: LayerMethod) -> dict[str, object]:
        """What a page shows of a method beside what every host's API tells."""
        title = wording.card(method)
        same = [row for family in self.families for row in METHODS.of_family(family) if wording.card(row) == title]
        steps = {layer: METHODS.next_step(method, layer) for layer in Layer}
        return {
            "title": title,
            "preferred": bool(same) and same[0] is method and method in self.methods,
            "usable": method in self.methods,
            "own_prompts": [str(layer) for layer in Layer if has_own_prompt(method, layer)],
            "next": {
                str(layer): None if row is None or row not in self.methods else row.label
                for layer, row in steps.items()
            },
        }


def _slug(subject: str) -> str:
    return "-".join(subject.lower().split())


def _sides(side: int, across: int, down: int) -> tuple[int, int]:
    """Width and height in a ratio, with about as many pixels as a square of that side."""
    grid = _GRID if side > 4 * _GRID else LATENT_FACTOR
    unit = (side * side / (across * down)) ** 0.5
    wide, high = (max(SMALLEST_SIDE, round(part * unit / grid) * grid) for part in (across, down))
    return wide, high


def _ratio(width: int, height: int) -> str:
    closest = min(SHAPES, key=lambda shape: abs(shape[0] / shape[1] - width / height))
    return f"{closest[0]}:{closest[1]}"
