"""Decoding, encoding and what prepares pictures for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from lib_layerdiffusion.images.arithmetic import PYRAMID_STEP, ResizeMode, condition_image, pad_rgb
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.places import compiled_folder
from lib_layerdiffusion.transparency import LatentTransparency, lower_median
from tests.benchmarks.reference import Reference
from tests.benchmarks.timing import Measure, Row, compare, measured_peak

OPERATIONS_PER_PIXEL = 0.196e12 / 512**2
"""Of one pass of the published decoder."""


def decoder_ways(device: torch.device, *, compiled: bool) -> dict[str, LatentTransparency]:
    """Our decoder with random weights, in the precisions that this device is used with."""
    torch.manual_seed(0)
    plain = TransparentDecoder().eval().requires_grad_(requires_grad=False)
    on_cpu = device.type == "cpu"
    ways = {f"ours, {name}": copy.deepcopy(plain).with_precision(dtype) for name, dtype in _precisions(device).items()}
    pairs = {name: LatentTransparency(decoder=decoder.to(device)) for name, decoder in ways.items()}
    if compiled:
        name, dtype = ("float32", torch.float32) if on_cpu else ("float16", torch.float16)
        network = plain.to(device).with_precision(dtype)
        pairs[f"ours, {name}, compiled"] = LatentTransparency(decoder=network, compiled_in=compiled_folder())
    return pairs


def _precisions(device: torch.device) -> dict[str, torch.dtype]:
    if device.type != "cpu":
        return {"float16": torch.float16}
    found = {"float32": torch.float32}
    if faster_precision(device, torch.float32) is torch.bfloat16:
        found["bfloat16"] = torch.bfloat16
    return found


def decode(
    device: torch.device, reference: Reference | None, side: int, passes: int, measure: Measure, *, compiled: bool
) -> list[Row]:
    """Decoding with the published architecture and random weights, for all of which time and memory are the same."""
    pairs = decoder_ways(device, compiled=compiled)
    pixels = torch.rand(1, 3, side, side, device=device)
    latent = torch.randn(1, 4, side // 8, side // 8, device=device)
    ways: dict[str, Callable[[], object]] = {}
    half = torch.float32 if device.type == "cpu" else torch.float16
    if reference is not None and passes == 8:
        state = copy.deepcopy(next(iter(pairs.values())).decoder.state_dict())
        theirs = reference.decoder(state, device, half)
        ways[f"reference, {half}".replace("torch.", "")] = lambda: theirs.estimate_augmented(
            pixels.to(half), latent.to(half)
        )
    for name, pair in pairs.items():
        ways[name] = lambda pair=pair: pair.decode(pixels, latent, passes)
    return compare(
        f"decode, {passes} {'pass' if passes == 1 else 'passes'}, {side}x{side}, {device}",
        ways,
        measure,
        memory=True,
        operations=OPERATIONS_PER_PIXEL * side * side * passes,
        peak=measured_peak(device, half, measure),
    )


def encode(device: torch.device, side: int, measure: Measure) -> list[Row]:
    """The offset of a picture, padding of its colours included."""
    encoder = TransparentEncoder().eval().requires_grad_(requires_grad=False).to(device)
    pair, picture = LatentTransparency(encoder=encoder), random_picture(side, side)
    return compare(f"encode, {side}x{side}, {device}", {"ours": lambda: pair.encode_offset(picture)}, measure)


def median(device: torch.device, side: int, measure: Measure) -> list[Row]:
    """The median of eight results."""
    views = [torch.rand(1, 4, side, side, device=device) for _ in range(8)]
    ways: dict[str, Callable[[], Tensor]] = {
        "torch.median, rank 5": lambda: torch.stack(views).median(dim=0).values,
        "ours, minima and maxima": lambda: lower_median(views),
    }
    return compare(f"median of eight, {side}x{side}, {device}", ways, measure)


def pictures(reference: Reference | None, side: int, measure: Measure) -> list[Row]:
    """Padding of colours, and a condition picture."""
    picture, large = random_picture(side, side), random_picture(2 * side, 3 * side)
    ways: dict[str, Callable[[], object]] = {}
    if reference is not None:
        ways["reference"] = lambda: reference.pad_rgb(picture)
    ways["ours"] = lambda: pad_rgb(picture)
    ways["OpenCV's resizes of it alone"] = _resizes(side)
    rows = compare(f"pad_rgb, {side}x{side}", ways, measure)
    modes: dict[str, Callable[[], object]] = {
        f"ours, {mode}": lambda mode=mode: condition_image(large, mode, side, side) for mode in ResizeMode
    }
    return rows + compare(f"condition picture, {3 * side}x{2 * side} to {side}x{side}", modes, measure)


def _resizes(side: int) -> Callable[[], object]:
    """The resizes that `pad_rgb` consists of, of pictures that are there: no way of doing it takes less."""
    sides = [side]
    while sides[-1] > 1:
        sides.append(int(sides[-1] / PYRAMID_STEP))
    levels = [np.ones((each, each, 4), np.float32) for each in sides]
    colours, alphas = ([np.ascontiguousarray(level[..., part]) for level in levels] for part in (slice(3), 3))

    def run() -> None:
        for large, small in pairwise(range(len(sides))):
            size = (sides[small], sides[small])
            for planes in (colours, alphas):
                cv2.resize(planes[large], size, interpolation=cv2.INTER_AREA)
            cv2.resize(colours[small], (sides[large], sides[large]), interpolation=cv2.INTER_LINEAR)

    return run


def random_picture(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 4], alpha 0 in its left half."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    picture[:, : width // 2, 3] = 0
    return picture
