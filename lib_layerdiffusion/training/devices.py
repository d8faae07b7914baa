"""Where a stage computes, and how a GPU is kept busy: data beside the weights, steps as CUDA graphs, one step ahead."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lib_layerdiffusion.errors import SettingsError

Figures = Mapping[str, Tensor]
WARM_STEPS = 3
"""Steps that run one operation at a time before a graph is made: libraries choose their kernels in them."""


class Placeable(Protocol):
    """What a stage has that lies somewhere."""

    modules: Mapping[str, nn.Module]
    frozen: Sequence[nn.Module]


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    return next(module.parameters()).device


def fastest_device() -> torch.device:
    """Where what is computed once, before the loop, is computed."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(name: str | None) -> torch.device:
    """The device of a name such as "cuda:1", or the fastest for None.

    Raises:
        SettingsError: this machine has no such device.
    """
    if name is None:
        return fastest_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f'This machine has no device "{name}"; leave --device out to take the fastest.') from error


def place(stage: Placeable, device: torch.device) -> None:
    """Move a stage's modules and all its data (attributes that are tensors, or dictionaries of them) to a device."""
    for module in (*stage.modules.values(), *stage.frozen):
        module.to(device)
        if device.type == "cuda":
            # torch's GroupNorm there works on contiguous maps: channels_last would be undone around every one.
            module.to(memory_format=torch.contiguous_format)
    for name, value in vars(stage).items():
        if isinstance(value, Tensor):
            setattr(stage, name, value.to(device))
        elif isinstance(value, dict):
            moved = {key: item.to(device) if isinstance(item, Tensor) else item for key, item in value.items()}
            setattr(stage, name, moved)


def use_fast_kernels(device: torch.device) -> None:
    """Let cuDNN try its kernels for the sizes at hand, and single precision take the tensor cores."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


class _LeanNorm(nn.GroupNorm):
    """GroupNorm that leaves its input's precision as it is, where autocast would widen every map around it.

    Moments are summed up in single precision in any case.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def make_norms_lean(stage: Placeable) -> None:
    """Let every GroupNorm of a stage work in the precision of its input: on a GPU, half the memory traffic."""
    for network in (*stage.modules.values(), *stage.frozen):
        for module in network.modules():
            if type(module) is nn.GroupNorm:
                module.__class__ = _LeanNorm


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """A CUDA stream of its own for a loop, as graphs cannot be made on the default one."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


class Backward:
    """Runs `compute`, which leaves gradients and returns figures; on CUDA, where asked, as one graph of its kernels.

    A small network's kernels take less time than their launches, one by one. The graph is made of the fourth step.
    Where none can be made (the stage asks the device something on the way), steps go on one operation at a time, with a
    warning.
    """

    def __init__(
        self, compute: Callable[[torch.Generator], Figures], device: torch.device, *, graphs: bool = True
    ) -> None:
        self.compute, self.generator = compute, torch.Generator(device)
        self.graphs = graphs and device.type == "cuda"
        self.steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.figures: Figures = {}

    def __call__(self, seed: int, parameters: Sequence[Tensor]) -> Figures:
        """Figures of one step; gradients of `parameters` are new ones, not added to the last."""
        self.steps += 1
        if self.graph is None and self.graphs and self.steps > WARM_STEPS:
            self._record(parameters)
        self.generator.manual_seed(seed)
        if self.graph is not None:
            self.graph.replay()
            return self.figures
        _drop(parameters)
        return self.compute(self.generator)

    def _record(self, parameters: Sequence[Tensor]) -> None:
        graph = torch.cuda.CUDAGraph()
        _drop(parameters)
        try:
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.figures = self.compute(self.generator)
        except RuntimeError as error:
            warnings.warn(f"No CUDA graph of this stage's step: {error}", stacklevel=2)
            self.graphs, self.generator = False, torch.Generator(self.generator.device)
        else:
            self.graph = graph


def _drop(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


class Pace:
    """Keeps the host at most one step ahead of a CUDA device, so that clocks and budgets mean what they say."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.last: torch.cuda.Event | None = None

    def step(self) -> None:
        """Wait until the step before this one is done."""
        if not self.cuda:
            return
        event = torch.cuda.Event()
        event.record()
        if self.last is not None:
            self.last.synchronize()
        self.last = event
