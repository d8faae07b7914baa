"""The ways in which hosts take changes of weights: tuples, by file name or not, and adapter objects."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from lib_layerdiffusion.hosts.forge.quantised import quantisation
from lib_layerdiffusion.unet.injection import KEY_PREFIX, WeightOffsets, WeightPatch

Backup = Callable[[Any], Mapping[str, Any]]
_WHILE_COMPUTING = "online_mode"
"""Hosts' name for it; on their pages it is "fp16 LoRA" or "on the fly"."""
_LORA_SLOTS = 5
"""Hosts' layout of a low-rank patch: up, down, alpha, middle, magnitude."""


class OffsetWay(Protocol):
    """One way of putting offsets into a patcher."""

    def add(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """See `Backend.add_offsets`."""
        ...

    def unmerged(self, unet: Any, offsets: WeightOffsets) -> list[str]:
        """See `Backend.unmerged`."""
        ...


def _slots(patch: WeightPatch) -> tuple[str, list[Tensor | None]]:
    return patch.kind, [*patch.tensors, *[None] * (_LORA_SLOTS - len(patch.tensors))]


def _tuples(offsets: Mapping[str, WeightPatch]) -> dict[str, tuple[str, list[Tensor | None]]]:
    return {KEY_PREFIX + key: _slots(patch) for key, patch in offsets.items()}


def adds_while_computing(unet: Any) -> bool:
    """Whether the host can add changes to a weight each time that its layer computes, in place of merging them once."""
    return _WHILE_COMPUTING in inspect.signature(unet.add_patches).parameters


def in_parts(unet: Any, offsets: WeightOffsets) -> Iterator[tuple[dict[str, WeightPatch], dict[str, bool]]]:
    """Offsets with the further arguments of `add_patches` for them: those of quantised weights stay beside these.

    Merged they would be rounded to a few bits, and for some kinds hosts cannot pack a weight again.
    """
    parameters = dict(unet.model.named_parameters()) if adds_while_computing(unet) else {}
    beside = {key for key in offsets if quantisation(parameters.get(KEY_PREFIX + key))}
    for wanted, further in ((False, {}), (True, {_WHILE_COMPUTING: True})):
        part = {key: patch for key, patch in offsets.items() if (key in beside) is wanted}
        if part:
            yield part, further


class NamedTuples:
    """The host merges anew only where the name of a file or a strength changes (Forge)."""

    def add(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """See `Backend.add_offsets`."""
        placed: list[str] = []
        for part, further in in_parts(unet, offsets):
            placed += unet.add_patches(filename=identity, patches=_tuples(part), strength_patch=strength, **further)
        return placed

    def unmerged(self, _unet: Any, _offsets: WeightOffsets) -> list[str]:
        """None: the host knows both kinds, and it raises where it cannot merge."""
        return []


class Tuples:
    """The host knows no file names and merges whenever it loads another patcher (classic)."""

    def add(self, unet: Any, offsets: WeightOffsets, _identity: str, strength: float) -> Collection[str]:
        """See `Backend.add_offsets`."""
        placed: Collection[str] = unet.add_patches(_tuples(offsets), strength)
        return placed

    def unmerged(self, _unet: Any, _offsets: WeightOffsets) -> list[str]:
        """See `NamedTuples.unmerged`."""
        return []


@dataclass
class Adapters:
    """The host asks an object for the merged weight (reForge, newer Neo).

    Such hosts pass over tuples of kinds that they do not know, with a warning or none at all, and some layers ask no
    object; so each notes that it was asked. base: the host's class of such objects. The last file's objects are kept,
    and its patcher bears the same mark again, so that the host sees that nothing is to be merged anew.
    """

    base: type
    _key: tuple[str, float] | None = None
    _objects: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """See `Backend.add_offsets`."""
        if self._key != (identity, strength):
            adapter = _adapter_class(self.base)
            self._objects = {KEY_PREFIX + key: adapter(patch) for key, patch in offsets.items()}
            self._key = identity, strength
        before = unet.patches_uuid
        placed: list[str] = []
        for part, further in in_parts(unet, offsets):
            placed += unet.add_patches(
                {KEY_PREFIX + key: self._objects[KEY_PREFIX + key] for key in part}, strength, **further
            )
        unet.patches_uuid = uuid.uuid5(before, f"{identity} {strength}")
        return placed

    def unmerged(self, _unet: Any, offsets: WeightOffsets) -> list[str]:
        """Those whose object was never asked."""
        return [key for key in offsets if not self._objects[KEY_PREFIX + key].asked]


def adapters_of(module: str) -> Adapters | None:
    """Adapter objects where the host has a module of them, None where it has none."""
    try:
        return Adapters(import_module(module).WeightAdapterBase)
    except ModuleNotFoundError:
        return None


def _adapter_class(base: type) -> Any:
    class LayerAdapter(base):
        """One change of a layer file: low rank, difference, or a difference that widens the weight."""

        name = "layerdiffusion"

        def __init__(self, patch: WeightPatch) -> None:
            self.patch = patch
            self.asked = False
            self.loaded_keys: set[str] = set()
            self.weights = list(patch.tensors)

        @torch.inference_mode()
        def calculate_weight(self, weight: Tensor, _key: str, strength: float, *_more: Any, **_named: Any) -> Tensor:
            """The merged weight, in the dtype of `weight`."""
            self.asked = True
            return self.patch.merge(weight, strength)

    return LayerAdapter
