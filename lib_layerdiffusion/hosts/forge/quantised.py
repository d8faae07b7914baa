"""Weights that a host keeps in a few bits: what they stand for, what they are called, and what they cannot take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.errors import HostError

_FLOAT8 = tuple(
    kind for name in dir(torch) if name.startswith("float8_") and isinstance(kind := getattr(torch, name), torch.dtype)
)
_PLAIN = frozenset({"weight", "bias"})
INSTEAD = "load a checkpoint in fp16, bf16 or fp8 instead"


def logical_shape(parameter: Tensor) -> tuple[int, ...]:
    """Shape of the values that a parameter stands for; 4-bit weights of bitsandbytes are packed into a column."""
    state = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if state is None else state.shape)


def quantisation(parameter: Any) -> str:
    """What a parameter is quantised with, as people call it, "" where it holds its values as they are.

    Known are bitsandbytes' nf4 and fp4, the kinds of GGUF, tensors that carry their layout (Forge Neo's mixed
    precision: scaled fp8, mxfp8, nvfp4, int8), and fp8 without scales.
    """
    if hasattr(parameter, "bnb_quantized") or getattr(parameter, "quant_state", None) is not None:
        return f"bitsandbytes {getattr(parameter, 'quant_type', '4-bit')}"
    kind = getattr(parameter, "gguf_cls", None)
    if kind is not None:
        return f"GGUF {getattr(getattr(kind, 'qtype', None), 'name', kind.__name__)}"
    layout = getattr(parameter, "_layout_cls", None)
    if isinstance(layout, str):
        return layout.removeprefix("TensorCore").removeprefix("TensorWise").removesuffix("Layout")
    dtype = getattr(parameter, "dtype", None)
    if dtype in _FLOAT8:
        return f"fp8 {str(dtype).removeprefix('torch.float8_')}"
    return "int8" if dtype is torch.int8 else ""


def quantisations(parameters: Iterable[Any]) -> str:
    """All that parameters are quantised with, for a sentence, "" where none is."""
    return ", ".join(sorted({name for parameter in parameters if (name := quantisation(parameter))}))


def refuse_unchangeable(
    parameters: Mapping[str, Tensor], names: Iterable[str], changes: Callable[[Tensor], bool]
) -> None:
    """Make sure that the host can change weights. names: of those. changes: tells it of a quantised one.

    Raises:
        HostError: it cannot.
    """
    found = (parameters[name] for name in names if name in parameters)
    refused = quantisations(one for one in found if quantisation(one) and not changes(one))
    if refused:
        raise HostError(
            f"The loaded checkpoint is quantised ({refused}) and this host cannot change such weights on this device: "
            f"{INSTEAD}."
        )


def refuse_unknown(parameters: Mapping[str, Tensor], layers: Iterable[str]) -> None:
    """Say what is wrong where layers have something else in the place of their weight, as Nunchaku's have.

    parameters: by full name. layers: names, or beginnings of names, of layers that were looked for.

    Raises:
        HostError: they have.
    """
    wanted = tuple(layers)
    packed = {
        last
        for head, _, last in (name.rpartition(".") for name in parameters)
        if last not in _PLAIN and head.startswith(wanted) and f"{head}.weight" not in parameters
    }
    if packed:
        raise HostError(
            f"The loaded checkpoint is quantised in a way that nothing can be added to ({', '.join(sorted(packed))} in "
            f"the place of weights, as Nunchaku has it): {INSTEAD}."
        )
