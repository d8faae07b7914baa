"""Patchers: clones share the model and differ in what is put into it while they are loaded."""

import copy
import uuid
from operator import attrgetter
from typing import NamedTuple

import torch


def _assign(model, name, value):
    parent, _, last = name.rpartition(".")
    setattr(attrgetter(parent)(model) if parent else model, last, value)


def refuse_packing(weight, beside):
    """Hosts cannot pack weights of most kinds again; changes are added while the layer computes in place of that."""
    if hasattr(weight, "gguf_cls") and not beside:
        raise NotImplementedError("Low bit LoRA for this data type is not implemented yet")


class Merger:
    """Weights with LoRAs merged in; merges anew only where names or strengths change."""

    def __init__(self, model):
        self.model = model
        self.backup = {}
        self.loaded = []
        self.merges = 0

    @torch.inference_mode()
    def refresh(self, patches):
        wanted = list(patches)
        if wanted == self.loaded:
            return
        for name, value in self.backup.items():
            _assign(self.model, name, value)
        self.backup = {}
        for (_, strength, beside), changes in patches.items():
            for name, (kind, parts) in changes.items():
                try:
                    weight = attrgetter(name)(self.model)
                except AttributeError:
                    raise ValueError(f"Wrong LoRA Key: {name}") from None
                self.backup.setdefault(name, weight)
                refuse_packing(weight, beside)
                _assign(self.model, name, torch.nn.Parameter(_merged(weight, kind, parts, strength), False))
        self.loaded = wanted
        self.merges += 1


def _merged(weight, kind, parts, strength):
    if strength == 0:
        return weight.clone()
    change = (parts[0] @ parts[1]).reshape(weight.shape) if kind == "lora" else parts[0]
    size = [max(a, b) for a, b in zip(weight.shape, change.shape, strict=True)]
    total = torch.zeros(size)
    total[tuple(map(slice, weight.shape))] += weight
    total[tuple(map(slice, change.shape))] += strength * change
    return total


class ModelPatcher:
    """What all hosts' patchers do with objects; merging differs."""

    def __init__(self, model, load_device=None, offload_device=None):
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.object_patches = {}
        self._replaced = {}
        self.model_options = {"transformer_options": {}}

    def clone(self):
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.object_patches = dict(self.object_patches)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def add_object_patch(self, name, value):
        self.object_patches[name] = value

    def load(self):
        for name, value in self.object_patches.items():
            self._replaced.setdefault(name, attrgetter(name)(self.model))
            _assign(self.model, name, value)

    def unload(self):
        for name, value in self._replaced.items():
            _assign(self.model, name, value)
        self._replaced.clear()

    def known(self, patches):
        names = {name for name, _ in self.model.named_parameters()}
        return {name: patch for name, patch in patches.items() if name in names}


class NamingPatcher(ModelPatcher):
    """Forge: changes by file name, merged by one merger of the model."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lora_patches = {}
        if not hasattr(self.model, "merger"):
            self.model.merger = self.model.lora_loader = Merger(self.model)

    def clone(self):
        other = super().clone()
        other.lora_patches = dict(self.lora_patches)
        return other

    def add_patches(self, *, filename, patches, strength_patch=1.0, online_mode=False):
        known = self.known(patches)
        self.lora_patches[(filename, strength_patch, online_mode)] = known
        return set(known)

    def load(self):
        super().load()
        self.model.merger.refresh(self.lora_patches)

    def unload_all(self):
        self.unload()
        self.model.merger.refresh({})

    def set_model_vae_regulation(self, function):
        self.model_options["model_vae_regulation"] = function


class AdapterBase:
    """Objects that are asked for the merged weight."""

    def calculate_weight(self, weight, key, strength, strength_model, offset, function, dtype=torch.float32):
        raise NotImplementedError


class LowRank(AdapterBase):
    """What hosts with adapter objects make of a LoRA's file."""

    def __init__(self, parts):
        self.parts = parts

    def calculate_weight(self, weight, key, strength, *_, **__):
        return weight + strength * (self.parts[0] @ self.parts[1]).reshape(weight.shape)


class Kept(NamedTuple):
    weight: object
    inplace_update: bool


class AskingPatcher(ModelPatcher):
    """Newer Neo and reForge: adapter objects, marks of what is merged, backups that clones share.

    skips: names that are passed over without a word, as some quantised layers do. strict: whether
    tuples of a kind that is not known are an error, or passed over too.
    """

    skips = frozenset()
    strict = True

    def __init__(self, *args):
        super().__init__(*args)
        self.patches, self.backup, self.parent = {}, {}, None
        self.patches_uuid = uuid.uuid4()
        if not hasattr(self.model, "merged_uuid"):
            self.model.merged_uuid, self.model.merges = None, 0

    def clone(self):
        other = super().clone()
        other.patches = {name: list(patches) for name, patches in self.patches.items()}
        other.patches_uuid, other.parent = self.patches_uuid, self
        other.backup, other._replaced = self.backup, self._replaced
        return other

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0, *, beside=False):
        known = self.known(patches)
        for name, patch in known.items():
            self.patches.setdefault(name, []).append((strength_patch, patch, beside))
        self.patches_uuid = uuid.uuid4()
        return list(known)

    @torch.inference_mode()
    def load(self):
        self.unload()
        super().load()
        if self.model.merged_uuid == self.patches_uuid:
            return
        self._put_back()
        for name, patches in self.patches.items():
            weight = attrgetter(name)(self.model)
            self.backup[name] = Kept(weight, inplace_update=False)
            if name not in self.skips:
                for strength, patch, beside in patches:
                    refuse_packing(weight, beside)
                    weight = self._merged(name, weight, patch, strength)
            _assign(self.model, name, torch.nn.Parameter(weight.clone(), False))
        self.model.merged_uuid = self.patches_uuid
        self.model.merges += 1

    def _merged(self, name, weight, patch, strength):
        if isinstance(patch, AdapterBase):
            return patch.calculate_weight(weight, name, strength, 1.0, None, None)
        if self.strict:
            raise ValueError(f'"{name}" of type "{patch[0]}" is not recognized...')
        return weight

    def _put_back(self):
        for name, kept in self.backup.items():
            _assign(self.model, name, kept.weight)
        self.backup.clear()

    def unload_all(self):
        self.unload()
        self._put_back()
        self.model.merged_uuid = None


class TuplePatcher(ModelPatcher):
    """classic: tuples without a file's name, merged whenever another patcher is loaded, backups of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.patches, self.backup = {}, {}

    def clone(self):
        other = super().clone()
        other.patches = {name: list(patches) for name, patches in self.patches.items()}
        return other

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        known = self.known(patches)
        for name, patch in known.items():
            self.patches.setdefault(name, []).append((strength_patch, patch))
        return list(known)

    @torch.inference_mode()
    def load(self):
        super().load()
        for name, patches in self.patches.items():
            weight = self.backup[name] = attrgetter(name)(self.model)
            for strength, (kind, parts) in patches:
                weight = _merged(weight, kind, parts, strength)
            _assign(self.model, name, torch.nn.Parameter(weight, False))

    def unload(self):
        super().unload()
        for name, weight in self.backup.items():
            _assign(self.model, name, weight)
        self.backup.clear()

    unload_all = unload


class ForUnet:
    """What is a UNet's patcher beside that."""

    extra_preserved_memory_during_sampling = 0

    def __init__(self, *args):
        super().__init__(*args)
        self.extra_model_patchers_during_sampling = []

    def clone(self):
        other = super().clone()
        other.extra_model_patchers_during_sampling = list(self.extra_model_patchers_during_sampling)
        return other

    def memory_required(self, shape):
        return 0

    def add_extra_model_patcher_during_sampling(self, patcher):
        self.extra_model_patchers_during_sampling.append(patcher)

    def add_conditioning_modifier(self, function):
        self.model_options.setdefault("conditioning_modifiers", []).append(function)
