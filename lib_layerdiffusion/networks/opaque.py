"""Functions that torch.compile calls as they are.

On a CPU what the compiler makes of a GroupNorm takes three times as long as torch's own, and it knows no better way for
narrow heads' attention. With both left alone it has half as much to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")


def opaque(name: str, schema: str, function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """`function`, registered with torch as `layerdiffusion::name`, so that the compiler does not look inside.

    schema: the operator's arguments and result in torch's notation. The first argument is a tensor, and the result one
    of its shape, type and memory format. Where torch cannot register it (before 2.4), the function itself.
    """
    if not hasattr(torch.library, "custom_op"):
        return function
    operation = torch.library.custom_op(f"layerdiffusion::{name}", function, mutates_args=(), schema=schema)

    def shaped(x: Tensor, *_: object) -> Tensor:
        return torch.empty_like(x)

    operation.register_fake(shaped)
    return operation


def left_alone(x: Tensor) -> bool:
    """Whether the compiler is looking, at what a CPU is to compute."""
    return x.device.type == "cpu" and torch.compiler.is_compiling()
