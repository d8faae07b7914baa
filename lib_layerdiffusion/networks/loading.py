"""Building a network from the keys and shapes of a weight file, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from lib_layerdiffusion.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)


def count_indices(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers from 0 on the group of `pattern` matches at the start of keys."""
    return 1 + max((int(match[1]) for key in state_dict if (match := re.match(pattern, key))), default=-1)


def load_strictly(network: Network, state_dict: Mapping[str, Tensor], what: str) -> Network:
    """Give `network` (built on the meta device) these tensors, all of them and no others, without a copy.

    Raises:
        WeightsError: keys or shapes differ; the message names the first few.
    """
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items()}
    differing = sorted(key for key in own.keys() | given.keys() if own.get(key) != given.get(key))
    if differing:
        raise WeightsError(
            f"The file is no {what} of a known kind ({len(differing)} keys differ, such as {', '.join(differing[:3])}): "
            "fetch it again."
        )
    network.load_state_dict(dict(state_dict), strict=True, assign=True)
    return network.requires_grad_(requires_grad=False).eval()
