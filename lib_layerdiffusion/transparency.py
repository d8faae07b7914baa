"""Latent transparency: RGBA -> latent offset, (pixels, latent) -> RGBA, for any size.

arXiv 2402.17113, section 3.1; the eight-view decode and its median are those of the published inference code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.arithmetic import pad_rgb, to_float, to_uint8
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder

LATENT_FACTOR = 8
PASSES = (1, 2, 4, 8)
# (mirrored, quarter turns), ordered so that the first 1, 2 and 4 keep the picture's shape and can share a batch.
VIEWS = ((False, 0), (True, 0), (False, 2), (True, 2), (False, 1), (True, 1), (False, 3), (True, 3))
DEFAULT_MEMORY_LIMIT = 4 << 30

Progress = Callable[[int, int], None]


class LatentTransparency:
    """The pair of networks of one model family.

    decoder, encoder: either may be left out where only the other direction is used. Their device and dtype are used.
    """

    def __init__(self, *, decoder: TransparentDecoder | None = None, encoder: TransparentEncoder | None = None) -> None:
        self.decoder = decoder
        self.encoder = encoder

    @torch.no_grad()
    def decode(
        self,
        pixels: Tensor,
        latent: Tensor,
        passes: int = 8,
        *,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        progress: Progress | None = None,
    ) -> Tensor:
        """RGBA of decoded pictures.

        pixels: [B, 3, H, W] in [0, 1], the VAE's decode of `latent` [B, 4, ceil(H/8), ceil(W/8)]; any H and W.
        passes: how many flips and quarter turns are decoded, 1, 2, 4 or 8; the result is their median (of an even
        number the lower middle value). memory_limit: bytes that activations may take; views of one shape share a batch
        as far as it allows. progress: called with (passes done, passes in all).
        Returns float32 [B, 4, H, W] in [0, 1] on the device of `pixels`: red, green, blue, alpha.

        Raises:
            InputError: the shapes do not belong together, `passes` is another number, or memory does not suffice for
                a single view.
        """
        if self.decoder is None:
            raise InputError("No transparency decoder is loaded.")
        if passes not in PASSES:
            raise InputError(f"Decode passes must be one of {', '.join(map(str, PASSES))}, not {passes}.")
        height, width = pixels.shape[-2:]
        _check_pair(pixels, latent, self.decoder)
        own = next(self.decoder.parameters())
        results: list[Tensor] = []
        total = passes * pixels.shape[0]
        for index in range(pixels.shape[0]):
            views: list[Tensor] = []

            def step(count: int, done: int = index * passes) -> None:
                if progress is not None:
                    progress(done + count, total)

            picture, item = self._padded(pixels[index : index + 1].to(own), latent[index : index + 1].to(own))
            self._decode_views(picture, item, VIEWS[:passes], memory_limit, views, step)
            results.append(lower_median(views)[..., :height, :width].to(pixels.device))
        decoded = torch.cat(results).float()
        return torch.cat([decoded[:, 1:], decoded[:, :1]], dim=1)

    def _padded(self, pixels: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Both continued by their last row and column, so that a constant picture stays constant."""
        multiple = self.decoder.size_multiple if self.decoder is not None else LATENT_FACTOR
        height, width = (-(-side // multiple) * multiple for side in pixels.shape[-2:])
        pixel_pad = (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])
        latent_pad = (
            0,
            width // LATENT_FACTOR - latent.shape[-1],
            0,
            height // LATENT_FACTOR - latent.shape[-2],
        )
        return (
            functional.pad(pixels, pixel_pad, mode="replicate"),
            functional.pad(latent, latent_pad, mode="replicate"),
        )

    def _decode_views(
        self,
        pixels: Tensor,
        latent: Tensor,
        views: Sequence[tuple[bool, int]],
        memory_limit: int,
        results: list[Tensor],
        step: Callable[[int], None],
    ) -> None:
        """Append every view's result, turned back and clipped; batches shrink to one where memory runs out."""
        numbers = self.decoder.activations_per_pixel if self.decoder is not None else 1
        per_view = numbers * pixels.element_size() * pixels.shape[-1] * pixels.shape[-2]
        size = max(1, memory_limit // per_view)
        while len(results) < len(views):
            start = len(results)
            same_shape = [view for view in views[start : start + size] if view[1] % 2 == views[start][1] % 2]
            try:
                results.extend(self._decode_batch(pixels, latent, same_shape))
            except RuntimeError as error:  # torch.OutOfMemoryError is one; Apple's backend raises the bare kind
                if not _out_of_memory(error):
                    raise
                if len(same_shape) == 1:
                    raise InputError(
                        f"There is too little memory to decode a picture of {pixels.shape[-1]}x{pixels.shape[-2]}: "
                        "free some on the device, or make the picture smaller."
                    ) from error
                size = 1
                continue
            step(len(results))

    def _decode_batch(self, pixels: Tensor, latent: Tensor, views: Sequence[tuple[bool, int]]) -> list[Tensor]:
        if self.decoder is None:
            raise InputError("No transparency decoder is loaded.")
        pixel_views = torch.cat([_turned(pixels, view) for view in views])
        latent_views = torch.cat([_turned(latent, view) for view in views])
        decoded = self.decoder(
            pixel_views.contiguous(memory_format=torch.channels_last),
            latent_views.contiguous(memory_format=torch.channels_last),
        ).clamp_(0.0, 1.0)
        return [_turned_back(decoded[i : i + 1], view) for i, view in enumerate(views)]

    @torch.no_grad()
    def encode_offset(self, rgba: NDArray[np.uint8]) -> Tensor:
        """The offset that hides a picture's alpha in its latent, to be used as `mean + std * offset`.

        rgba: uint8 [H, W, 4], H and W multiples of 8. Returns [1, 4, H/8, W/8] on the encoder's device, in its dtype.

        Raises:
            InputError: the size is no multiple of 8 or the picture is not RGBA.
        """
        if self.encoder is None:
            raise InputError("No transparency encoder is loaded.")
        if rgba.shape[0] % LATENT_FACTOR or rgba.shape[1] % LATENT_FACTOR:
            raise InputError(f"Width and height must be multiples of 8; {rgba.shape[1]}x{rgba.shape[0]} is not.")
        colour = pad_rgb(rgba)
        stacked = np.concatenate([to_float(rgba[..., 3:]), colour], axis=-1)
        tensor = torch.from_numpy(stacked).permute(2, 0, 1)[None]
        return self.encoder(tensor.to(next(self.encoder.parameters())))


def _check_pair(pixels: Tensor, latent: Tensor, decoder: TransparentDecoder) -> None:
    """Raises: InputError: pixels and latent cannot be of the same pictures."""
    height, width = pixels.shape[-2:]
    if tuple(latent.shape[-2:]) != (-(-height // LATENT_FACTOR), -(-width // LATENT_FACTOR)):
        raise InputError(
            f"A latent of {latent.shape[-1]}x{latent.shape[-2]} does not belong to a picture of {width}x{height}."
        )
    if pixels.shape[:-2] != (len(latent), 3) or latent.shape[1] != decoder.latent_channels:
        raise InputError(
            f"Pixels {tuple(pixels.shape)} and latent {tuple(latent.shape)} do not belong together: "
            f"[B, 3, H, W] and [B, {decoder.latent_channels}, H/8, W/8] are needed."
        )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def _turned(x: Tensor, view: tuple[bool, int]) -> Tensor:
    mirrored, turns = view
    return torch.rot90(torch.flip(x, (3,)) if mirrored else x, turns, (2, 3))


def _turned_back(x: Tensor, view: tuple[bool, int]) -> Tensor:
    mirrored, turns = view
    straight = torch.rot90(x, -turns, (2, 3))
    return torch.flip(straight, (3,)) if mirrored else straight


def lower_median(values: Sequence[Tensor]) -> Tensor:
    """Element-wise median of equally shaped tensors; of an even number the lower of the two middle values.

    Repeated minima and maxima only, because sorting along a fifth dimension is missing on some backends and copies all
    views on every one.
    """
    rest = list(values)
    for _ in range((len(rest) - 1) // 2):
        # One sweep moves the smallest value to the end, where it is dropped.
        for i in range(len(rest) - 1):
            rest[i], rest[i + 1] = torch.maximum(rest[i], rest[i + 1]), torch.minimum(rest[i], rest[i + 1])
        rest.pop()
    smallest = rest[0]
    for value in rest[1:]:
        smallest = torch.minimum(smallest, value)
    return smallest


def rgba_arrays(decoded: Tensor) -> list[NDArray[np.uint8]]:
    """[B, 4, H, W] in [0, 1] -> B pictures uint8 [H, W, 4], rounded."""
    return [to_uint8(item.permute(1, 2, 0).float().cpu().numpy()) for item in decoded]
