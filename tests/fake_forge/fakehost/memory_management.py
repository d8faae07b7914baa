"""Loading of patchers: one patcher of a model at a time, object patches and merged weights follow the loaded one."""

import weakref

import torch

from fakehost import kind

current_loaded_models = []


class LoadedModel:
    """`model` is a patcher; a host that holds it weakly goes over to what it is a clone of when it is gone."""

    def __init__(self, patcher):
        self._own = (lambda: patcher) if not kind.weak else weakref.ref(patcher)
        self._parent = None if getattr(patcher, "parent", None) is None else weakref.ref(patcher.parent)

    @property
    def model(self):
        own = self._own()
        return own if own is not None or self._parent is None else self._parent()


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def should_use_fp16(device=None):
    return False


def get_free_memory(device=None):
    return 1 << 30


def load_models_gpu(models, memory_required=0, hard_memory_preservation=0):
    for patcher in models:
        if not kind.weak and any(entry.model is patcher for entry in current_loaded_models):
            continue
        current_loaded_models[:] = [entry for entry in current_loaded_models if entry.model is not None]
        for entry in [entry for entry in current_loaded_models if entry.model.model is patcher.model]:
            current_loaded_models.remove(entry)
            entry.model.unload()
        patcher.load()
        current_loaded_models.append(LoadedModel(patcher))


def load_model_gpu(model):
    load_models_gpu([model])


def unload_all_models():
    while current_loaded_models:
        patcher = current_loaded_models.pop().model
        if patcher is not None:
            patcher.unload_all()
