"""Patchers: clones share the model and differ in what is put into it while they are loaded."""

import copy
from operator import attrgetter

import torch


def _assign(model, name, value):
    parent, _, last = name.rpartition(".")
    setattr(attrgetter(parent)(model) if parent else model, last, value)


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
        for (_, strength), changes in patches.items():
            for name, (kind, parts) in changes.items():
                try:
                    weight = attrgetter(name)(self.model)
                except AttributeError:
                    raise ValueError(f"Wrong LoRA Key: {name}") from None
                self.backup.setdefault(name, weight)
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
    def __init__(self, model, load_device=None, offload_device=None):
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.lora_patches = {}
        self.object_patches = {}
        self._replaced = {}
        self.model_options = {"transformer_options": {}}
        if not hasattr(model, "merger"):
            model.merger = model.lora_loader = Merger(model)

    def clone(self):
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.lora_patches = dict(self.lora_patches)
        other.object_patches = dict(self.object_patches)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def add_patches(self, *, filename, patches, strength_patch=1.0):
        names = {name for name, _ in self.model.named_parameters()}
        known = {name: patch for name, patch in patches.items() if name in names}
        self.lora_patches[(filename, strength_patch)] = known
        return set(known)

    def add_object_patch(self, name, value):
        self.object_patches[name] = value

    def patch(self):
        for name, value in self.object_patches.items():
            self._replaced.setdefault(name, attrgetter(name)(self.model))
            _assign(self.model, name, value)

    def unpatch(self):
        for name, value in self._replaced.items():
            _assign(self.model, name, value)
        self._replaced = {}

    def set_model_vae_regulation(self, function):
        self.model_options["model_vae_regulation"] = function


class UnetPatcher(ModelPatcher):
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
