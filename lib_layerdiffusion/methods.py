"""The one table of methods: everything that differs between two methods is a field of a row here.

The page, validation, the API, infotext, downloads and the documentation derive from `METHODS`; nothing else in the
project asks which method it is dealing with. Facts: the extension's 2024-08 release; arXiv 2402.17113, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from lib_layerdiffusion.errors import SettingsError, quoted


class Family(str, Enum):
    """A family of base models that share an architecture and therefore weight files."""

    SD15 = "SD1.5"
    SDXL = "SDXL"

    __str__ = str.__str__


class Layer(str, Enum):
    """What a picture is in the composition `blended = foreground over background`."""

    FOREGROUND = "foreground"
    BACKGROUND = "background"
    BLENDED = "blended"

    __str__ = str.__str__


class Technique(str, Enum):
    """How a weight file changes the UNet."""

    WEIGHT_OFFSETS = "weight offsets"
    """Low-rank or full differences added to the UNet's own weights; conditions are concatenated latents."""
    ATTENTION_SHARING = "attention sharing"
    """Units around every attention layer which let the frames of one picture see each other."""

    __str__ = str.__str__


@dataclass(frozen=True)
class FamilyFiles:
    """Catalogue names of a family's transparency VAE pair."""

    encoder: str
    decoder: str


VAE_FILES: Mapping[Family, FamilyFiles] = MappingProxyType(
    {
        Family.SD15: FamilyFiles("layer_sd15_vae_transparent_encoder", "layer_sd15_vae_transparent_decoder"),
        Family.SDXL: FamilyFiles("vae_transparent_encoder", "vae_transparent_decoder"),
    }
)


@dataclass(frozen=True)
class LayerMethod:
    """One way of generating layers.

    name: short name for the command line and the Python API; unique within a family.
    label: the dropdown string, unique; written to and read from infotext.
    weights: catalogue name of the UNet file.
    inputs: the condition pictures that the method needs, in the order in which they are concatenated.
    frames: what each frame of a picture shows; batch item i is frame `i % len(frames)`.
    """

    name: str
    label: str
    family: Family
    technique: Technique
    weights: str
    inputs: tuple[Layer, ...]
    frames: tuple[Layer, ...]

    @property
    def frame_count(self) -> int:
        """Batch items that make one picture."""
        return len(self.frames)

    @property
    def has_alpha(self) -> bool:
        """Whether any frame comes out as RGBA."""
        return any(self.is_rgba(index) for index in range(self.frame_count))

    def layer_of(self, batch_index: int) -> Layer:
        """The layer that batch item `batch_index` shows."""
        return self.frames[batch_index % self.frame_count]

    def is_rgba(self, batch_index: int) -> bool:
        """Whether batch item `batch_index` is decoded to RGBA: foregrounds are, other layers fill the picture."""
        return self.layer_of(batch_index) is Layer.FOREGROUND

    def padded_batch(self, batch_size: int) -> int:
        """`batch_size` rounded up to whole sets of frames."""
        return -(-batch_size // self.frame_count) * self.frame_count

    @property
    def old_labels(self) -> tuple[str, ...]:
        """Labels that earlier releases wrote for this method: no "(SDXL) " prefix, no "(need batch size N)"."""
        plain = re.sub(r" \(need batch size \d+\)$", "", self.label)
        return tuple(label for label in dict.fromkeys([plain, plain.removeprefix("(SDXL) ")]) if label != self.label)

    @property
    def outcome(self) -> str:
        """What comes out, in words: "3 pictures: foreground with alpha, background, blended"."""
        layers = ", ".join(f"{layer} with alpha" if layer is Layer.FOREGROUND else str(layer) for layer in self.frames)
        return f"{self.frame_count} picture{'s' if self.frame_count > 1 else ''}: {layers}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """Catalogue names of every weight file that a text-to-image run of this method reads."""
        return (self.weights, VAE_FILES[self.family].decoder) if self.has_alpha else (self.weights,)


class MethodTable(Mapping[str, LayerMethod]):
    """Label -> method. Iterates over the ten current labels; look-up also takes the labels of earlier releases."""

    def __init__(self, rows: tuple[LayerMethod, ...]) -> None:
        self._rows = {row.label: row for row in rows}
        self._aliases = {old: row for row in rows for old in row.old_labels}

    def __getitem__(self, label: str) -> LayerMethod:
        row = self._rows.get(label) or self._aliases.get(label)
        if row is None:
            raise KeyError(label)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, name: str, family: Family | None = None) -> LayerMethod:
        """The method that `name` means: a label of any release, or a short name within `family`.

        A label says its family by itself; `family` only decides between short names that two families share.

        Raises:
            SettingsError: nothing is called so; the message lists what is.
        """
        wanted = name.strip()
        if wanted in self:
            return self[wanted]
        rows = [row for row in self.named(wanted) if family in (None, row.family)]
        if len(rows) == 1:
            return rows[0]
        if rows:
            families = " and ".join(row.family for row in rows)
            raise SettingsError(f"Method {quoted(name)} exists for {families}: say which family is meant.")
        known = [row for row in self._rows.values() if family in (None, row.family)]
        names = list(dict.fromkeys(row.name for row in known)) if family else list(self._rows)
        raise SettingsError(f"There is no method {quoted(name)}; use one of: {', '.join(names)}.")

    def named(self, name: str) -> tuple[LayerMethod, ...]:
        """Every method that a label of any release or a short name may mean: several where families share it."""
        wanted = name.strip()
        if wanted in self:
            return (self[wanted],)
        return tuple(row for row in self._rows.values() if row.name == wanted)

    def next_step(self, done: LayerMethod, given: Layer) -> LayerMethod | None:
        """The method that goes on from `done` when a picture of its result is used as `given`, None if there is none.

        It takes as many as it can of the pictures that are at hand then: those that `done` took, and the result.
        """
        at_hand = {*done.inputs, given}
        fitting = [row for row in self.of_family(done.family) if given in row.inputs and at_hand.issuperset(row.inputs)]
        return max(fitting, key=lambda row: len(row.inputs), default=None)

    def alone(self, family: Family) -> LayerMethod | None:
        """The family's first method that makes a transparent picture of nothing but a prompt, None if there is none."""
        return next(
            (row for row in self.of_family(family) if row.frame_count == 1 and row.has_alpha and not row.inputs), None
        )

    def of_family(self, family: Family) -> tuple[LayerMethod, ...]:
        """The methods of one family, in table order."""
        return tuple(row for row in self._rows.values() if row.family is family)


def _sd15(name: str, label: str, weights: str, inputs: tuple[Layer, ...], frames: tuple[Layer, ...]) -> LayerMethod:
    return LayerMethod(name, f"(SD1.5) {label}", Family.SD15, Technique.ATTENTION_SHARING, weights, inputs, frames)


def _sdxl(name: str, label: str, weights: str, inputs: tuple[Layer, ...], frame: Layer) -> LayerMethod:
    return LayerMethod(name, f"(SDXL) {label}", Family.SDXL, Technique.WEIGHT_OFFSETS, weights, inputs, (frame,))


_FG, _BG, _BLEND = Layer.FOREGROUND, Layer.BACKGROUND, Layer.BLENDED

METHODS = MethodTable(
    (
        _sd15(
            "transparent",
            "Only Generate Transparent Image (Attention Injection)",
            "layer_sd15_transparent_attn",
            (),
            (_FG,),
        ),
        _sd15(
            "fg-to-bg",
            "From Foreground to Background (need batch size 2)",
            "layer_sd15_fg2bg",
            (_FG,),
            (_BG, _BLEND),
        ),
        _sd15(
            "bg-to-fg",
            "From Background to Foreground (need batch size 2)",
            "layer_sd15_bg2fg",
            (_BG,),
            (_FG, _BLEND),
        ),
        _sd15(
            "everything",
            "Generate Everything Together (need batch size 3)",
            "layer_sd15_joint",
            (),
            (_FG, _BG, _BLEND),
        ),
        _sdxl(
            "transparent",
            "Only Generate Transparent Image (Attention Injection)",
            "layer_xl_transparent_attn",
            (),
            _FG,
        ),
        _sdxl(
            "transparent-conv", "Only Generate Transparent Image (Conv Injection)", "layer_xl_transparent_conv", (), _FG
        ),
        _sdxl("fg-to-blend", "From Foreground to Blending", "layer_xl_fg2ble", (_FG,), _BLEND),
        _sdxl("fg-blend-to-bg", "From Foreground and Blending to Background", "layer_xl_fgble2bg", (_FG, _BLEND), _BG),
        _sdxl("bg-to-blend", "From Background to Blending", "layer_xl_bg2ble", (_BG,), _BLEND),
        _sdxl("bg-blend-to-fg", "From Background and Blending to Foreground", "layer_xl_bgble2fg", (_BG, _BLEND), _FG),
    )
)
