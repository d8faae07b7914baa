"""Decoding and encoding: the reference's results, any size, the median, memory."""

from __future__ import annotations

import copy
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images import arithmetic as images
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.networks.tiles import OVERLAP, cut, tile_side
from lib_layerdiffusion.transparency import LatentTransparency, lower_median, rgba_arrays
from tests.golden import expected, filled, relative_error, rgba, tensor, thinned


@pytest.fixture(scope="module")
def small() -> LatentTransparency:
    torch.manual_seed(1)
    decoder = TransparentDecoder(channels=(8, 8, 16, 16), layers=1, attention_levels=1).eval()
    return LatentTransparency(decoder=decoder, encoder=TransparentEncoder(widths=(4, 4, 4, 4)).eval())


def test_median_of_eight_views_equals_the_reference():
    weights = filled(TransparentDecoder(), "public/decoder")
    weights["conv_out.weight"] *= 0.3
    weights["conv_out.bias"] = torch.tensor([0.5, 0.45, 0.55, 0.5])
    pixels = torch.from_numpy(rgba("public/decoder/pixel", 128, 192)[..., :3] / 255).float().permute(2, 0, 1)[None]
    latent = tensor("public/decoder/latent", (1, 4, 16, 24))
    result = LatentTransparency(decoder=TransparentDecoder.from_state_dict(weights)).decode(pixels, latent)
    stored = expected("decoder/augmented_median")
    assert (thinned(result.roll(1, dims=1), stored) - stored).abs().max() <= 1e-4
    picture = rgba_arrays(result)[0]
    for actual, name in ((picture, "rgba"), (images.preview(picture), "checkerboard")):
        stored = expected(f"decoder/{name}").int()
        assert (thinned(torch.from_numpy(actual).int(), stored) - stored).abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "size", "alpha"), [("soft", (128, 64), None), ("clear", (64, 64), 0), ("opaque", (64, 128), 255)]
)
def test_offset_equals_the_reference(name, size, alpha):
    encoder = TransparentEncoder.from_state_dict(filled(TransparentEncoder(), "public/encoder"))
    picture = rgba(f"public/encoder/{name}", *size)
    if alpha is not None:
        picture[..., 3] = alpha
    offset = LatentTransparency(encoder=encoder).encode_offset(picture)
    assert relative_error(offset, expected(f"encoder/offset_{name}")) <= 1e-4


@pytest.mark.parametrize("passes", [1, 2, 4, 8])
def test_passes_are_views_turned_back_and_their_lower_median(small, passes):
    pixels, latent = torch.rand(1, 3, 64, 128), torch.randn(1, 4, 8, 16)
    turns = [(flip, turn) for turn in (0, 2, 1, 3) for flip in (False, True)][:passes]
    views = []
    for flip, turn in turns:
        fed = [(x.flip(3) if flip else x).rot90(turn, (2, 3)) for x in (pixels, latent)]
        with torch.no_grad():
            view = small.decoder(*fed).clip(0, 1).rot90(-turn, (2, 3))
        views.append(view.flip(3) if flip else view)
    alpha, colour = torch.stack(views).median(dim=0).values.split([1, 3], dim=1)
    torch.testing.assert_close(small.decode(pixels, latent, passes), torch.cat([colour, alpha], 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_give_nearly_the_same_picture(small, dtype):
    pixels, latent = torch.rand(1, 3, 40, 72), torch.randn(1, 4, 5, 9)
    exact = small.decode(pixels, latent, passes=2)
    rough = LatentTransparency(decoder=copy.deepcopy(small.decoder).to(dtype)).decode(pixels, latent, passes=2)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.02


@given(count=st.integers(1, 9), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_median_is_torchs(count, seed, dtype):
    values = torch.rand(count, 2, 3, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert torch.equal(lower_median(list(values)), values.float().median(dim=0).values.to(dtype))


@pytest.mark.parametrize("size", [(64, 64), (136, 200), (520, 912), (13, 27)])
def test_any_size_decodes_to_its_own_size(small, size):
    latent = torch.randn(1, 4, -(-size[0] // 8), -(-size[1] // 8))
    result = small.decode(torch.rand(1, 3, *size), latent, passes=2)
    assert result.shape == (1, 4, *size)
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (136, 200), (520, 912)])
def test_padding_leaves_no_seam_in_a_constant_picture(small, size):
    height, width = size
    multiple = small.decoder.size_multiple
    full = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    latent = torch.full((1, 4, 1, 1), 0.3)
    cropped = small.decode(torch.full((1, 3, *size), 0.6), latent.expand(1, 4, height // 8, width // 8), passes=1)
    whole = small.decode(torch.full((1, 3, *full), 0.6), latent.expand(1, 4, full[0] // 8, full[1] // 8), passes=1)
    assert torch.equal(cropped, whole[..., :height, :width])


def test_a_turned_picture_is_decoded_turned(small):
    pixels, latent = torch.rand(1, 3, 64, 128), torch.randn(1, 4, 8, 16)
    straight = small.decode(pixels, latent)
    turned = small.decode(pixels.rot90(1, (2, 3)), latent.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, straight.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_batches_and_memory_limits_do_not_change_the_result(small):
    pixels, latent = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    seen = []
    roomy = small.decode(pixels, latent, progress=lambda done, total: seen.append((done, total)))
    tight = small.decode(pixels, latent, memory_limit=1)
    torch.testing.assert_close(roomy, tight, atol=1e-5, rtol=0)
    torch.testing.assert_close(roomy[1:], small.decode(pixels[1:], latent[1:]), atol=1e-5, rtol=0)
    assert seen[-1] == (16, 16)
    assert seen == sorted(seen)


@pytest.mark.parametrize("size", [(600, 1100), (1032, 640)])
def test_tiles_keep_a_memory_limit_and_leave_no_seam(small, size):
    height, width = size
    latent = smooth(4, -(-height // 8), -(-width // 8))
    pixels = smooth(3, height, width)
    largest = []
    watched = copy.deepcopy(small.decoder)
    watched.register_forward_pre_hook(lambda _module, inputs: largest.append(inputs[0].shape[-2] * inputs[0].shape[-1]))
    limit = 640 * 640 * watched.activation_bytes_per_pixel
    tiled = LatentTransparency(decoder=watched).decode(pixels, latent, passes=2, memory_limit=limit)
    whole = small.decode(pixels, latent, passes=2)
    assert len(largest) > 2
    assert max(largest) * watched.activation_bytes_per_pixel <= limit
    assert (tiled - whole).abs().mean() < 0.05
    # A seam would be a step between rows or columns that the whole picture does not have there.
    side = tile_side(height, width, watched.activation_bytes_per_pixel, limit, watched.size_multiple)
    tiles = cut(height, width, side, watched.size_multiple)
    for axis, edges in (
        (2, {edge for tile in tiles for edge in (tile.top, tile.bottom)} - {0, height}),
        (3, {edge for tile in tiles for edge in (tile.left, tile.right)} - {0, width}),
    ):
        ours, theirs = (x.diff(dim=axis).abs().mean((0, 1, 5 - axis)) for x in (tiled, whole))
        for edge in edges:
            assert ours[edge - 1] <= 1.2 * theirs[max(0, edge - 8) : edge + 8].max()


@pytest.mark.parametrize("side", range(512, 2400, 192))
def test_tiles_cover_every_length_and_compute_little_twice(side):
    for length in range(513, 6000, 61):
        tiles = cut(length, 512, side, 64)
        assert (tiles[0].top, tiles[-1].bottom) == (0, length)
        assert all(one.bottom - after.top >= OVERLAP for one, after in pairwise(tiles))
        assert all(tile.bottom - tile.top <= side for tile in tiles)
        # Rounding to multiples of 64 may add to each overlap, and no tile is smaller than 512.
        twice = sum(tile.bottom - tile.top for tile in tiles) - length
        assert twice <= (len(tiles) - 1) * (2 * OVERLAP + 3 * 64) or tiles[0].bottom == 512


def smooth(channels: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(channels)
    field = torch.rand(1, channels, 5, 5)
    return torch.nn.functional.interpolate(field, (height, width), mode="bicubic").clamp(0, 1)


def test_what_does_not_fit_whole_is_done_in_tiles_and_said(small, monkeypatch, caplog):
    pixels, latent = torch.rand(1, 3, 512, 1024), torch.randn(1, 4, 64, 128)
    forward = type(small.decoder).forward

    def poor(batch, *rest):
        if batch.shape[-1] * batch.shape[-2] * len(batch) > 512 * 512:
            raise torch.OutOfMemoryError
        return forward(small.decoder, batch, *rest)

    monkeypatch.setattr(small.decoder, "forward", poor)
    seen = []
    result = small.decode(pixels, latent, passes=2, progress=lambda done, total: seen.append((done, total)))
    assert result.shape == (1, 4, 512, 1024)
    assert seen[-1] == (2, 2)
    assert seen == sorted(set(seen))
    assert "tiles" in caplog.text


def test_bfloat16_stays_within_two_levels_of_float32():
    weights = filled(TransparentDecoder(), "public/decoder")
    weights["conv_out.weight"] *= 0.3
    weights["conv_out.bias"] = torch.tensor([0.5, 0.45, 0.55, 0.5])
    decoder = TransparentDecoder.from_state_dict(weights)
    pixels = torch.from_numpy(rgba("public/decoder/pixel", 128, 192)[..., :3] / 255).float().permute(2, 0, 1)[None]
    latent = tensor("public/decoder/latent", (1, 4, 16, 24))
    exact = LatentTransparency(decoder=decoder).decode(pixels, latent)
    rough = LatentTransparency(decoder=decoder.with_precision(torch.bfloat16)).decode(pixels, latent)
    levels = ((rough - exact) * 255).abs().flatten()
    assert levels.mean() <= 1
    assert levels.quantile(0.999) <= 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("MPS backend out of memory (used 9 GB)")])
def test_out_of_memory_falls_back_to_single_views(small, monkeypatch, error):
    pixels, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8)
    usual = small.decode(pixels, latent)
    limit_batches(monkeypatch, small.decoder, 1, error)
    torch.testing.assert_close(small.decode(pixels, latent), usual, atol=1e-5, rtol=0)
    limit_batches(monkeypatch, small.decoder, 0, error)
    with pytest.raises(InputError, match="too little memory"):
        small.decode(pixels, latent)


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory(small, monkeypatch):
    limit_batches(monkeypatch, small.decoder, 0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        small.decode(torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8))


def limit_batches(monkeypatch, decoder, most, error):
    forward = type(decoder).forward

    def poor(batch, *rest):
        if len(batch) > most:
            raise error
        return forward(decoder, batch, *rest)

    monkeypatch.setattr(decoder, "forward", poor)


def test_what_does_not_belong_together_is_refused(small):
    with pytest.raises(InputError, match="does not belong"):
        small.decode(torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 16))
    for pixels, latent in (((2, 3), (1, 4)), ((1, 4), (1, 4)), ((1, 3), (1, 16))):
        with pytest.raises(InputError, match="belong together"):
            small.decode(torch.rand(*pixels, 64, 64), torch.randn(*latent, 8, 8))
    with pytest.raises(InputError, match="1, 2, 4, 8"):
        small.decode(torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8), passes=3)
    with pytest.raises(InputError, match="multiples of 8"):
        small.encode_offset(np.zeros((60, 64, 4), np.uint8))


def test_a_compiled_decoder_runs_every_batch(small, monkeypatch, tmp_path):
    seen = []

    def compiled(network, options=None):
        return lambda pixels, latent: seen.append(len(pixels)) or network(pixels, latent)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    pixels, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8)
    pair = LatentTransparency(decoder=small.decoder, compiled_in=tmp_path)
    assert torch.equal(pair.decode(pixels, latent), small.decode(pixels, latent))
    assert sum(seen) == 8
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_what_cannot_be_compiled_is_decoded_as_it_is_and_said_once(small, monkeypatch, tmp_path, caplog):
    def compiled(_network, options=None):
        def fail(_pixels, _latent):
            raise RuntimeError("\nNo C++ compiler\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pixels, latent = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    pair = LatentTransparency(decoder=small.decoder, compiled_in=tmp_path)
    assert torch.equal(pair.decode(pixels, latent), small.decode(pixels, latent))
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "No C++ compiler" in caplog.text


def test_a_compiled_decoder_that_runs_out_of_memory_falls_back_to_single_views(small, monkeypatch, tmp_path):
    def compiled(network, options=None):
        def run(pixels, latent):
            if len(pixels) > 1:
                raise torch.OutOfMemoryError
            return network(pixels, latent)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pixels, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8)
    pair = LatentTransparency(decoder=small.decoder, compiled_in=tmp_path)
    torch.testing.assert_close(pair.decode(pixels, latent), small.decode(pixels, latent), atol=1e-5, rtol=0)
