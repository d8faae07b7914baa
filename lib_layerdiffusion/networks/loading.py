"""Strict loading of published state dicts: what a file is, is read from its keys and shapes, never from its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from lib_layerdiffusion.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)

_NAMED = 4  # keys that an error message names before it only counts


def load_strictly(build: Callable[[], Network], state_dict: Mapping[str, Tensor], what: str) -> Network:
    """Build a network and give it the tensors of `state_dict` themselves: no copy, their dtype and device stay.

    build: makes the network; called on the meta device, so that no memory is taken for weights that are replaced.
    what: the network's name in an error message. Returns the network in evaluation mode, without gradients.

    Raises:
        WeightsError: keys are missing or left over, or shapes differ; the message names the first of them.
    """
    try:
        with torch.device("meta"):
            network = build()
    except ValueError as error:
        raise WeightsError(f"The file is not that of a {what} ({error}): fetch the right one again.") from error
    check_keys({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}, state_dict, what)
    network.load_state_dict(state_dict, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def check_keys(wanted: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, Tensor], what: str) -> None:
    """Compare keys and shapes with what a network wants.

    Raises:
        WeightsError: they differ; the message names the first few keys.
    """
    missing = [key for key in wanted if key not in state_dict]
    extra = [key for key in state_dict if key not in wanted]
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state_dict and tuple(state_dict[key].shape) != shape
    ]
    complaints = [
        f"{title} {_shortened(keys)}"
        for title, keys in (("missing:", missing), ("not wanted:", extra), ("of another shape:", shapes))
        if keys
    ]
    if complaints:
        raise WeightsError(f"The file is not that of a {what} ({'; '.join(complaints)}): fetch the right one again.")


def count_indices(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow `prefix` in the keys."""
    return len({key[len(prefix) :].split(".", 1)[0] for key in state_dict if key.startswith(prefix)})


def shape_of(state_dict: Mapping[str, Tensor], key: str, rank: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is read from.

    Raises:
        WeightsError: the file lacks the tensor, or it has another number of axes.
    """
    if key not in state_dict or state_dict[key].ndim != rank:
        raise WeightsError(f"The file is not that of a {what} (it has no fitting {key}): fetch the right one again.")
    return tuple(state_dict[key].shape)


def _shortened(keys: list[str]) -> str:
    rest = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
