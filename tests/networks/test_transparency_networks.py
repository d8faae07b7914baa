"""The two transparency networks against the reference's results, and what their loaders refuse."""

from __future__ import annotations

import pytest
import torch

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder, gpu_blocks
from lib_layerdiffusion.networks.decoder_blocks import Upsample
from lib_layerdiffusion.networks.transparent_encoder import zero_last_convolution
from tests.golden import expected, filled, rgba, tensor, thinned

SMALL = (8, 8, 16, 16, 24)


@pytest.fixture(scope="module")
def decoder() -> TransparentDecoder:
    weights = filled(TransparentDecoder(), "public/decoder")
    weights["conv_out.weight"] *= 0.3
    weights["conv_out.bias"] = torch.tensor([0.5, 0.45, 0.55, 0.5])
    return TransparentDecoder.from_state_dict(weights)


def test_decoder_has_the_published_size(decoder):
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 104_104_804


@torch.no_grad()
def test_decoder_equals_the_reference(decoder):
    pixels = torch.from_numpy(rgba("public/decoder/pixel", 128, 192)[..., :3] / 255).float().permute(2, 0, 1)[None]
    result = decoder(pixels, tensor("public/decoder/latent", (1, 4, 16, 24)))
    stored = expected("decoder/single_pass")
    assert (thinned(result, stored) - stored).abs().max() <= 1e-4


@pytest.mark.parametrize(("channels", "layers", "attention"), [(SMALL, 2, 2), (SMALL, 1, 1), ((8,) * 4, 1, 0)])
@torch.no_grad()
def test_decoder_of_any_size_is_rebuilt_from_its_keys(channels, layers, attention):
    torch.manual_seed(0)
    network = TransparentDecoder(channels=channels, layers=layers, attention_levels=attention).eval()
    again = TransparentDecoder.from_state_dict(network.state_dict())
    pixels, latent = torch.rand(1, 3, 64, 32), torch.randn(1, 4, 8, 4)
    assert torch.equal(network(pixels, latent), again(pixels, latent))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_decoder_keeps_its_dtype(dtype):
    torch.manual_seed(0)
    network = TransparentDecoder(channels=SMALL).eval()
    pixels, latent = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 4, 4)
    exact = network(pixels, latent)
    rough = network.to(dtype)(pixels.to(dtype), latent.to(dtype))
    assert rough.dtype == dtype
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("width", [3, 8])
@torch.no_grad()
def test_doubling_in_one_convolution_equals_doubling_first(width):
    torch.manual_seed(0)
    upsample = Upsample(width)
    x = torch.randn(2, width, 5, 7)
    doubled = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(upsample(x), upsample.conv(doubled), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bfloat16_leaves_the_finest_way_down_and_the_end_in_float32():
    decoder = TransparentDecoder(channels=SMALL).eval().with_precision(torch.bfloat16)
    assert decoder.dtype is torch.bfloat16
    assert decoder.conv_in.weight.dtype is decoder.conv_out.weight.dtype is torch.float32
    assert {part.dtype for part in decoder.down_blocks[0].parameters()} == {torch.float32}
    assert {part.dtype for part in decoder.up_blocks.parameters()} == {torch.bfloat16}
    assert decoder(torch.rand(1, 3, 32, 32), torch.randn(1, 4, 4, 4)).dtype is torch.float32
    assert {part.dtype for part in decoder.with_precision(torch.float32).parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_decoder_refuses_another_state_dict(change):
    weights = TransparentDecoder(channels=SMALL).state_dict()
    if change == "missing":
        del weights["mid_block.resnets.1.conv2.bias"]
    elif change == "extra":
        weights["surplus.weight"] = torch.zeros(1)
    else:
        weights["conv_out.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"mid_block|surplus|conv_out"):
        TransparentDecoder.from_state_dict(weights)


def test_loaders_refuse_each_others_files():
    with pytest.raises(WeightsError):
        TransparentDecoder.from_state_dict(TransparentEncoder().state_dict())
    with pytest.raises(WeightsError):
        TransparentEncoder.from_state_dict(TransparentDecoder(channels=SMALL).state_dict())
    impossible = TransparentDecoder(channels=SMALL).state_dict()
    shallow = {
        key: value for key, value in impossible.items() if not key.startswith(("down_blocks.3", "down_blocks.4"))
    }
    for weights in (shallow, {}):
        with pytest.raises(WeightsError):
            TransparentDecoder.from_state_dict(weights)


@pytest.mark.parametrize("sizes", [((1, 3, 40, 64), (1, 4, 5, 8)), ((1, 3, 64, 64), (1, 4, 8, 4))])
def test_decoder_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match=r"64|40"):
        TransparentDecoder(channels=SMALL)(torch.rand(sizes[0]), torch.rand(sizes[1]))


@torch.no_grad()
def test_a_zeroed_encoder_is_the_identity():
    encoder = TransparentEncoder(widths=(4, 8, 8, 8))
    zero_last_convolution(encoder)
    assert not encoder(torch.rand(1, 4, 32, 16)).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
@pytest.mark.parametrize("channels", [SMALL, (32, 64, 96, 128)])
@torch.no_grad()
def test_blocks_for_gpus_compute_the_same(channels, dtype, tolerance, monkeypatch):
    torch.manual_seed(0)
    network = TransparentDecoder(channels=channels).eval()
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))  # norms and biases are ones and nearly noughts otherwise
    pixels, latent = torch.rand(2, 3, 64, 32), torch.randn(2, 4, 8, 4)
    exact = network(pixels, latent)
    network.with_precision(dtype).to(memory_format=torch.channels_last)
    monkeypatch.setattr(gpu_blocks, "fits", lambda pixels: True)
    usual = torch.channels_last
    result = network(pixels.contiguous(memory_format=usual), latent.contiguous(memory_format=usual))
    assert result.is_contiguous(memory_format=usual)
    torch.testing.assert_close(result.float(), exact, atol=tolerance * float(exact.abs().max()), rtol=0)


@torch.no_grad()
def test_blocks_for_gpus_normalise_maps_far_from_zero():
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(4, 48)
    parts = [torch.randn(2, width, 6, 10) + 50 * torch.randn(width, 1, 1) for width in (32, 16)]
    wanted = torch.nn.functional.silu(norm(torch.cat(parts, 1)))
    biases = [torch.randn(32), None]
    maps = [
        gpu_blocks.Map(
            (part if bias is None else part - bias[:, None, None]).contiguous(memory_format=torch.channels_last), bias
        )
        for part, bias in zip(parts, biases, strict=True)
    ]
    torch.testing.assert_close(gpu_blocks.normalised(maps, norm), wanted, atol=1e-4, rtol=0)
