"""Loading of patchers: one patcher of a model at a time, object patches and merged weights follow the loaded one."""

import torch

current_loaded = []


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
        if patcher in current_loaded:
            continue
        for other in [item for item in current_loaded if item.model is patcher.model]:
            current_loaded.remove(other)
            other.unpatch()
        patcher.patch()
        patcher.model.merger.refresh(patcher.lora_patches)
        current_loaded.append(patcher)


def load_model_gpu(model):
    load_models_gpu([model])


def unload_all_models():
    while current_loaded:
        patcher = current_loaded.pop()
        patcher.unpatch()
        patcher.model.merger.refresh({})
