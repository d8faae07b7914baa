"""A host's own layers with really packed weights, changed by us and put back: `quantised_layers.py ROOT KIND...`.

A small network in the place of the UNet goes through the host's loader of layers, patcher and memory management. Prints
a JSON line for each kind: how it is called, the error of the changed weights, whether they are put back to the bit.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

LINEAR = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
CONV = "input_blocks.0.0.weight"
WIDTH, RANK, STRENGTH = 256, 8, 0.7
BITS = {
    "nf4": "bnb",
    "fp4": "bnb",
    "fp8": "plain",
    "float8_e4m3fn": "mixed",
    "int8_tensorwise": "mixed",
    "nvfp4": "mixed",
}
"""Kind -> the host's way with it; kinds of GGUF by their names."""


def start(root: Path) -> None:
    """Let this process have the host's backend, on the CPU, without its page and models."""
    from tests.hosts.forge import starting

    packages = [root / "packages_3rdparty", root / "modules_forge" / "packages"]
    sys.path[:0] = [str(root), *(str(folder) for folder in packages if folder.is_dir())]
    sys.argv = ["webui.py", *starting.cpu_flags(root)]
    import backend.memory_management  # noqa: F401


def packed(kind: str, weight: Any) -> dict[str, Any]:
    """The state dict's entries of a weight [out, in] in this kind."""
    import torch

    way = BITS.get(kind, "gguf")
    if way == "plain":
        return {"weight": weight.to(torch.float8_e4m3fn)}
    if way == "bnb":
        from bitsandbytes import functional

        data, state = functional.quantize_4bit(weight, quant_type=kind, blocksize=64)
        return {"weight": data, **{f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}}
    if way == "gguf":
        return {"weight": _gguf(kind, weight)}
    from backend import quant_ops

    layout = quant_ops.QUANT_ALGOS[kind]["comfy_tensor_layout"]
    scale = {} if kind == "nvfp4" else {"scale": "recalculate"}
    tensor = quant_ops.QuantizedTensor.from_float(weight, layout, **scale)
    said = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    return {**tensor.state_dict("weight"), "comfy_quant": said}


def _gguf(kind: str, weight: Any) -> Any:
    import inspect

    import gguf
    import numpy as np
    import torch
    from backend.operations_gguf import ParameterGGUF

    number = gguf.GGMLQuantizationType[kind]
    if kind.endswith("_K"):  # gguf packs none of these itself: random numbers with the scales of the weight
        block, size = gguf.GGML_QUANT_SIZES[number]
        data = np.random.default_rng(1).integers(0, 256, (weight.numel() // block, size), dtype=np.uint8)
        for place, share in ((0, 200), (2, 60)):
            data[:, place : place + 2] = np.full((len(data), 1), float(weight.std()) / share, np.float16).view(np.uint8)
        data = data.reshape(weight.shape[0], -1)
    else:
        data = gguf.quantize(weight.numpy(), number)
    if "tensor_type" in inspect.signature(ParameterGGUF.__init__).parameters:
        return ParameterGGUF(torch.from_numpy(data.copy()), tensor_type=number, tensor_shape=weight.shape)

    class Tensor:
        tensor_type, shape = number, list(reversed(weight.shape))

    Tensor.data = data
    return ParameterGGUF(Tensor)


def network(kind: str) -> tuple[Any, Any, Any]:
    """A model with `diffusion_model` inside, one linear layer of this kind and a convolution; the two layers."""
    import torch
    from backend import operations

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    way = BITS.get(kind, "gguf")
    storage = torch.float8_e4m3fn if way == "plain" else torch.float32
    chosen = {"bnb": kind, "gguf": "gguf", "mixed": {"kind": kind}}.get(way)
    settings = {"device": torch.device("cpu"), "dtype": storage, "manual_cast_enabled": way == "plain"}
    with operations.using_forge_operations(**settings, bnb_dtype=chosen):
        linear = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        conv = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    linear.load_state_dict(packed(kind, weight), strict=False)
    kernel = torch.randn(8, 4, 3, 3, generator=generator).to(storage)
    conv.weight = torch.nn.Parameter(kernel, requires_grad=False)

    def inside(*modules: Any) -> Any:
        return torch.nn.ModuleList(modules)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn1 = torch.nn.Module()
            self.attn1.to_q = linear

    transformer = torch.nn.Module()
    transformer.transformer_blocks = inside(Block())
    unet = torch.nn.Module()
    unet.input_blocks = inside(inside(conv), inside(torch.nn.Identity(), transformer))
    model = torch.nn.Module()
    model.diffusion_model, model.computation_dtype = unet, torch.float32
    model.memory_required = lambda **_: 0
    return model, linear, conv


def offsets() -> Any:
    """A low-rank change of the linear layer, and a difference that widens the convolution."""
    import torch

    from lib_layerdiffusion.unet.injection import WeightOffsets, WeightPatch

    generator = torch.Generator().manual_seed(1)
    up, down = torch.randn(WIDTH, RANK, generator=generator), torch.randn(RANK, WIDTH, generator=generator) / WIDTH
    wide = torch.randn(8, 8, 3, 3, generator=generator)
    return WeightOffsets({LINEAR: WeightPatch("lora", (up, down)), CONV: WeightPatch("diff", (wide,))})


def seen(linear: Any, conv: Any, channels: int) -> tuple[Any, Any]:
    """What the layers make: the linear one's weight, and the convolution of ones."""
    import torch

    with torch.inference_mode():
        return linear(torch.eye(WIDTH)).T.clone(), conv(torch.ones(1, channels, 5, 5)).clone()


def measure(kind: str) -> dict[str, Any]:
    """Change the layers, look, and put them back."""
    import torch
    from backend import memory_management
    from backend.patcher.unet import UnetPatcher

    from lib_layerdiffusion.hosts.forge.backends.forge import HostBackend
    from lib_layerdiffusion.hosts.forge.quantised import quantisation
    from lib_layerdiffusion.networks.sharing_run import is_weight_product

    model, linear, conv = network(kind)
    cpu, backend, changes = torch.device("cpu"), HostBackend(), offsets()
    plain = UnetPatcher(model, cpu, cpu)
    memory_management.load_models_gpu([plain])
    before = seen(linear, conv, 4)
    result = {"kind": kind, "called": quantisation(linear.weight), "shape": list(_shape(linear.weight))}
    result["folds"] = is_weight_product(linear, torch.randn(3, WIDTH))
    parameter = backend.parameters(plain)[f"diffusion_model.{LINEAR}"]
    result["changes"] = backend.changes_quantised(plain, parameter)
    patched = plain.clone()
    placed = backend.add_offsets(patched, changes, "a file", STRENGTH)
    result["placed"] = len(placed)
    if result["changes"]:
        memory_management.load_models_gpu([patched])
        after = seen(linear, conv, 8)
        wanted = before[0] + STRENGTH * changes[LINEAR].tensors[0] @ changes[LINEAR].tensors[1]
        result["error"] = float((after[0] - wanted).norm() / (after[0] - before[0]).norm())
        first = conv_of(changes, before[1])
        result["conv_error"] = float((after[1] - first).norm() / first.norm())
        result["left_out"] = len(backend.unmerged(patched, changes))
        memory_management.load_models_gpu([plain])
    result["restored"] = all(torch.equal(a, b) for a, b in zip(before, seen(linear, conv, 4), strict=True))
    return result


def conv_of(changes: Any, plain: Any) -> Any:
    """What the widened convolution makes of ones: the plain one's, and the difference's."""
    import torch

    return plain + torch.nn.functional.conv2d(torch.ones(1, 8, 5, 5), STRENGTH * changes[CONV].tensors[0], padding=1)


def _shape(weight: Any) -> tuple[int, ...]:
    from lib_layerdiffusion.hosts.forge.quantised import logical_shape

    return logical_shape(weight)


def main() -> None:
    """One line for each kind."""
    root, *kinds = sys.argv[1:]
    start(Path(root))
    for kind in kinds:
        try:
            print("RESULT", json.dumps(measure(kind)), flush=True)
        except Exception as error:  # noqa: BLE001, PERF203
            traceback.print_exc()
            print("RESULT", json.dumps({"kind": kind, "raised": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main()
