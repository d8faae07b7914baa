"""Deterministic test weights and inputs for the golden cases.

Every array depends only on its name and shape, so a case file stores just the expected
outputs: a test rebuilds the module's weights with `fill_state_dict` and its inputs with
`tensor` / `rgba`, runs the module and compares.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard-normal float32 array that depends only on `name` and `shape`."""
    return _rng(name).standard_normal(shape).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(array(name, shape))


def fill_state_dict(shapes: dict[str, tuple[int, ...]], salt: str) -> dict[str, torch.Tensor]:
    """Weights for every key: fan-in scaled matrices and kernels, near-one scales, small biases.

    shapes: state-dict key -> shape. salt: makes two modules with equal keys differ.
    """
    filled = {}
    for key, shape in shapes.items():
        noise = array(f"{salt}/{key}", tuple(shape))
        if len(shape) >= 2:
            fan_in = int(np.prod(shape[1:]))
            value = noise * (1.0 / np.sqrt(fan_in))
        elif key.endswith("weight"):
            value = 1.0 + 0.1 * noise
        else:
            value = 0.1 * noise
        filled[key] = torch.from_numpy(value.astype(np.float32))
    return filled


def rgba(name: str, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 4] picture: a smooth colour field, a soft disc and a hard rectangle in alpha."""
    rng = _rng(name)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    # Python's own numbers leave arrays in float32 with every numpy; numpy 2 would go on in float64 with its scalars.
    phase = rng.uniform(0, 6.28, size=3).tolist()
    freq = rng.uniform(0.02, 0.15, size=(3, 2)).tolist()
    rgb = np.stack([0.5 + 0.5 * np.sin(freq[c][0] * x + freq[c][1] * y + phase[c]) for c in range(3)], axis=-1)
    cy, cx = (rng.uniform(0.3, 0.7, size=2) * (height, width)).tolist()
    radius = 0.3 * min(height, width)
    distance = np.sqrt((y - cy) ** 2 + (x - cx) ** 2)
    alpha = np.clip((radius - distance) / (0.25 * radius) + 0.5, 0, 1)
    alpha[: height // 8, : width // 5] = 1.0
    picture = np.concatenate([rgb, alpha[..., None]], axis=-1)
    return np.round(picture * 255.0).astype(np.uint8)


GOLDEN = Path(__file__).parent / "data" / "golden.safetensors"


def expected(name: str) -> torch.Tensor:
    """A stored result: every n-th element of each axis of what the reference computes (see `thinned`)."""
    with safe_open(GOLDEN, "pt") as file:
        return file.get_tensor(name)


def thinned(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The elements of a full result that are stored in `like`, which is shorter by a whole factor on each axis."""
    steps = [round(a / b) for a, b in zip(full.shape, like.shape, strict=True)]
    return full[tuple(slice(None, None, step) for step in steps)]


def relative_error(actual: torch.Tensor, stored: torch.Tensor) -> float:
    return float((thinned(actual, stored) - stored).norm() / stored.norm())


def filled(module: torch.nn.Module, salt: str) -> dict[str, torch.Tensor]:
    return fill_state_dict({key: tuple(value.shape) for key, value in module.state_dict().items()}, salt)
