"""Latent transparency: RGBA -> latent offset, (pixels, latent) -> RGBA, for any size.

arXiv 2402.17113, section 3.1; the eight-view decode and its median are those of the published inference code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lib_layerdiffusion.errors import InputError, is_out_of_memory
from lib_layerdiffusion.images.arithmetic import pad_rgb, to_float, to_uint8
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.networks.allocation import freed_memory_kept
from lib_layerdiffusion.networks.compiled import CompiledDecoder
from lib_layerdiffusion.networks.numbers import check_numbers, check_sampled
from lib_layerdiffusion.networks.tiles import Tile, blended, cut, halved, tile_side

LATENT_FACTOR = 8
PASSES = (1, 2, 4, 8)
View = tuple[bool, int]
# (mirrored, quarter turns), ordered so that the first 1, 2 and 4 keep the picture's shape and can share a batch.
VIEWS: tuple[View, ...] = ((False, 0), (True, 0), (False, 2), (True, 2), (False, 1), (True, 1), (False, 3), (True, 3))
DEFAULT_MEMORY_LIMIT = 4 << 30
_BATCHED_PIXELS = {"cpu": 256 * 256}
_BATCHED_PIXELS_ELSEWHERE = 1024 * 1024
"""Views share a batch up to this many pixels: more keeps no device busier, and takes that much more memory."""
_CHANNELS_LAST = ("cpu", "cuda")
"""Where maps are in channels_last; on other devices it has not been measured."""

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


class LatentTransparency:
    """The pair of networks of one model family.

    decoder, encoder: either may be left out where only the other direction is used. Their device and dtype are used.
    compiled_in: a folder; torch.compile makes the decoder's passes and keeps there what it has made. The first picture
    of every size waits a minute or two for it.
    """

    def __init__(
        self,
        *,
        decoder: TransparentDecoder | None = None,
        encoder: TransparentEncoder | None = None,
        compiled_in: Path | None = None,
    ) -> None:
        self.decoder = decoder
        self.encoder = encoder
        self._compiled: CompiledDecoder | None = None
        if compiled_in is not None and decoder is not None:
            self._compiled = CompiledDecoder(decoder, compiled_in)

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
        number the lower middle value). memory_limit: bytes that activations may take; small views of one shape share a
        batch, and a picture of which a single view needs more is decoded in overlapping tiles. progress: called with
        (passes done, passes in all).
        Returns float32 [B, 4, H, W] in [0, 1] on the device of `pixels`: red, green, blue, alpha.

        A decoder that overflows in half precision decodes once more in float32.

        Raises:
            InputError: the shapes do not belong together, `passes` is another number, or memory does not suffice for
                the smallest tile.
            ModelError: pixels, latent or the decoder's result are no numbers.
        """
        if self.decoder is None:
            raise InputError("No transparency decoder is loaded.")
        if passes not in PASSES:
            raise InputError(f"Decode passes must be one of {', '.join(map(str, PASSES))}, not {passes}.")
        _check_pair(pixels, latent, self.decoder)
        check_sampled(latent)
        check_numbers(pixels, "The VAE")
        decoded = self._decode(pixels, latent, passes, memory_limit, progress)
        if bool(torch.isfinite(decoded).all()):
            return decoded
        own = self.decoder.dtype
        if own.itemsize < 4:
            self.decoder.with_precision(torch.float32)
            try:
                decoded = self._decode(pixels, latent, passes, memory_limit, progress)
            finally:
                self.decoder.with_precision(own)
        check_numbers(decoded, "The transparency decoder")
        return decoded

    def _decode(
        self, pixels: Tensor, latent: Tensor, passes: int, memory_limit: int, progress: Progress | None
    ) -> Tensor:
        if self.decoder is None:
            raise InputError("No transparency decoder is loaded.")
        if _device_of(self.decoder).type in _CHANNELS_LAST:
            _as_pictures_are(self.decoder)
        results: list[Tensor] = []
        total = passes * pixels.shape[0]
        for index in range(pixels.shape[0]):
            views = _Views(self.decoder, passes, memory_limit, _counting(progress, index * passes, total))
            if self._compiled is not None:
                views.run = self._compiled
            one = slice(index, index + 1)
            # On a CPU most of a pass's memory comes from and goes to the system again, layer by layer.
            with freed_memory_kept():
                results.append(views.median(pixels[one], latent[one]).to(pixels.device))
        decoded = torch.cat(results).float()
        return torch.cat([decoded[:, 1:], decoded[:, :1]], dim=1)

    @torch.no_grad()
    def encode_offset(self, rgba: NDArray[np.uint8]) -> Tensor:
        """The offset that hides a picture's alpha in its latent, to be used as `mean + std * offset`.

        rgba: uint8 [H, W, 4], H and W multiples of 8. Returns [1, 4, H/8, W/8] on the encoder's device, in its dtype.

        Raises:
            InputError: the size is no multiple of 8 or the picture is not RGBA. ModelError: the offset is no numbers.
        """
        if self.encoder is None:
            raise InputError("No transparency encoder is loaded.")
        if rgba.shape[0] % LATENT_FACTOR or rgba.shape[1] % LATENT_FACTOR:
            raise InputError(f"Width and height must be multiples of 8; {rgba.shape[1]}x{rgba.shape[0]} is not.")
        colour = pad_rgb(rgba)
        stacked = np.concatenate([to_float(rgba[..., 3:]), colour], axis=-1)
        tensor = torch.from_numpy(stacked).permute(2, 0, 1)[None]
        offset = self.encoder(tensor.to(next(self.encoder.parameters())))
        check_numbers(offset, "The transparency encoder")
        return offset


class _Views:
    """The views of one picture, decoded in batches, tiles and places that memory suffices for.

    step: called with how many passes are done.
    """

    def __init__(
        self, decoder: TransparentDecoder, passes: int, memory_limit: int, step: Callable[[float], None]
    ) -> None:
        self._decoder, self._passes, self._limit, self._step = decoder, passes, memory_limit, step
        self._pixels = _BATCHED_PIXELS.get(_device_of(decoder).type, _BATCHED_PIXELS_ELSEWHERE)
        self.run: Callable[[Tensor, Tensor], Tensor] = decoder

    def median(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """[1, 4, H, W] alpha, red, green, blue of pixels [1, 3, H, W] and their latent.

        Where memory runs out: single views, then ever smaller tiles, then the CPU.

        Raises:
            InputError: it does not suffice there either.
        """
        height, width = pixels.shape[-2:]
        multiple = self._decoder.size_multiple
        side = tile_side(height, width, self._decoder.activation_bytes_per_pixel, self._limit, multiple)
        while True:
            try:
                return self._tiled(pixels, latent, side)
            except RuntimeError as error:  # torch.OutOfMemoryError is one; Apple's backend raises the bare kind
                if not is_out_of_memory(error):
                    raise
                smaller = halved(side, height, width, multiple)
            _return_unused(_device_of(self._decoder))
            if smaller is None:
                return self._on_cpu(pixels, latent)
            side = smaller
            _log.warning("Memory does not suffice to decode %dx%d at once: it is done in tiles.", width, height)

    def _on_cpu(self, pixels: Tensor, latent: Tensor) -> Tensor:
        device, dtype = _device_of(self._decoder), self._decoder.dtype
        height, width = pixels.shape[-2:]
        if device.type != "cpu":
            _log.warning("Memory does not suffice to decode %dx%d on %s: the CPU does it.", width, height, device)
            try:
                self._decoder.to("cpu").with_precision(torch.float32)
                self.run = self._decoder
                per_pixel, multiple = self._decoder.activation_bytes_per_pixel, self._decoder.size_multiple
                return self._tiled(pixels, latent, tile_side(height, width, per_pixel, self._limit, multiple))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            finally:
                self._decoder.to(device).with_precision(dtype)
        raise InputError(
            f"There is too little memory to decode a picture of {width}x{height}: "
            "free some on the device, or make the picture smaller."
        )

    def _tiled(self, pixels: Tensor, latent: Tensor, side: int | None) -> Tensor:
        height, width = pixels.shape[-2:]
        if side is None:
            return self._whole(pixels, latent, self._step)
        tiles = cut(height, width, side, self._decoder.size_multiple)

        def results() -> Iterator[tuple[Tile, Tensor]]:
            for index, tile in enumerate(tiles):

                def step(done: float, before: int = index) -> None:
                    self._step((before * self._passes + done) / len(tiles))

                yield tile, self._whole(tile.of(pixels), tile.of_latent(latent, LATENT_FACTOR), step)

        return blended(results(), (1, 4, height, width))

    def _whole(self, pixels: Tensor, latent: Tensor, step: Callable[[float], None]) -> Tensor:
        own = next(self._decoder.parameters())
        height, width = pixels.shape[-2:]
        padded = _padded(pixels.to(own), latent.to(own), self._decoder.size_multiple)
        return lower_median(self._decoded(*padded, step))[..., :height, :width]

    def _decoded(self, pixels: Tensor, latent: Tensor, step: Callable[[float], None]) -> list[Tensor]:
        """Every view's result, turned back and clipped; batches shrink to one where memory runs out."""
        pixels_per_view = pixels.shape[-1] * pixels.shape[-2]
        per_view = self._decoder.activation_bytes_per_pixel * pixels_per_view
        views, results = VIEWS[: self._passes], list[Tensor]()
        while len(results) < len(views):
            size = max(1, min(self._pixels // pixels_per_view, self._limit // per_view))
            start = len(results)
            same_shape = [view for view in views[start : start + size] if view[1] % 2 == views[start][1] % 2]
            try:
                results.extend(self._decode_batch(pixels, latent, same_shape))
            except RuntimeError as error:
                if len(same_shape) == 1 or not is_out_of_memory(error):
                    raise
                self._pixels = 0
            else:
                step(len(results))
        return results

    def _decode_batch(self, pixels: Tensor, latent: Tensor, views: Sequence[View]) -> list[Tensor]:
        pixel_views = torch.cat([turned(pixels, view) for view in views])
        latent_views = torch.cat([turned(latent, view) for view in views])
        decoded = self.run(
            pixel_views.contiguous(memory_format=torch.channels_last),
            latent_views.contiguous(memory_format=torch.channels_last),
        ).clamp_(0.0, 1.0)
        return [turned_back(decoded[i : i + 1], view) for i, view in enumerate(views)]


def _counting(progress: Progress | None, before: int, total: int) -> Callable[[float], None]:
    """Whole passes for `progress`, never fewer than before: what runs out of memory begins anew."""
    most = [before]

    def step(done: float) -> None:
        if progress is not None and before + int(done) > most[0]:
            most[0] = before + int(done)
            progress(most[0], total)

    return step


def _return_unused(device: torch.device) -> None:
    """Give back what torch keeps of a GPU's memory: after running out, it is in pieces of the wrong size."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _as_pictures_are(network: torch.nn.Module) -> None:
    """Put kernels in channels_last like the maps: else every convolution copies its weight first."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def _padded(pixels: Tensor, latent: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Both continued by their last row and column, so that a constant picture stays constant."""
    height, width = (-(-side // multiple) * multiple for side in pixels.shape[-2:])
    pixel_pad = (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])
    latent_pad = (0, width // LATENT_FACTOR - latent.shape[-1], 0, height // LATENT_FACTOR - latent.shape[-2])
    return (
        functional.pad(pixels, pixel_pad, mode="replicate"),
        functional.pad(latent, latent_pad, mode="replicate"),
    )


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


def turned(x: Tensor, view: View) -> Tensor:
    """[N, C, H, W] as a view shows it: mirrored or not, then so many quarter turns."""
    mirrored, turns = view
    return torch.rot90(torch.flip(x, (3,)) if mirrored else x, turns, (2, 3))


def turned_back(x: Tensor, view: View) -> Tensor:
    """What a view of [N, C, H, W] shows, brought back to the picture's own orientation."""
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
