"""Loading of patchers: one patcher of a model at a time, object patches and merged weights follow the loaded one."""

import torch

current_loaded_models = []


class LoadedModel:
    """`model` is a patcher."""

    def __init__(self, patcher):
        self.model = patcher


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
        if any(entry.model is patcher for entry in current_loaded_models):
            continue
        for entry in [entry for entry in current_loaded_models if entry.model.model is patcher.model]:
            current_loaded_models.remove(entry)
            entry.model.unpatch()
        patcher.patch()
        patcher.model.merger.refresh(patcher.lora_patches)
        current_loaded_models.append(LoadedModel(patcher))


def load_model_gpu(model):
    load_models_gpu([model])


def unload_all_models():
    while current_loaded_models:
        patcher = current_loaded_models.pop().model
        patcher.unpatch()
        patcher.model.merger.refresh({})
