"""The ways in which hosts take changes of weights: tuples, by file name or not, and adapter objects."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from lib_layerdiffusion.unet.injection import KEY_PREFIX, WeightOffsets, WeightPatch

Backup = Callable[[Any], Mapping[str, Any]]
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


def _tuples(offsets: WeightOffsets) -> dict[str, tuple[str, list[Tensor | None]]]:
    return {KEY_PREFIX + key: _slots(patch) for key, patch in offsets.items()}


class NamedTuples:
    """The host merges anew only where the name of a file or a strength changes (Forge)."""

    def add(self, unet: Any, offsets: WeightOffsets, identity: str, strength: float) -> Collection[str]:
        """See `Backend.add_offsets`."""
        placed: Collection[str] = unet.add_patches(filename=identity, patches=_tuples(offsets), strength_patch=strength)
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
        placed: Collection[str] = unet.add_patches(self._objects, strength)
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
