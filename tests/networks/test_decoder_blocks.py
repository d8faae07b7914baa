"""The ways that blocks of the decoder take on a CPU, against the plain one and inside torch.compile."""

from __future__ import annotations

import pytest
import torch

from lib_layerdiffusion.networks import TransparentDecoder, decoder_blocks
from lib_layerdiffusion.networks.decoder_blocks import AttentionBlock, ResnetBlock, group_norm

LAST = torch.channels_last


@torch.no_grad()
@pytest.mark.parametrize("widths", [(8,), (8, 8), (16, 8)])
def test_a_shortcut_of_products_is_a_convolution(widths, monkeypatch):
    torch.manual_seed(0)
    convolutions = []
    convolved = decoder_blocks.convolved
    monkeypatch.setattr(
        decoder_blocks, "convolved", lambda conv, *given: convolutions.append(conv) or convolved(conv, *given)
    )
    block = ResnetBlock(sum(widths), 12, 4).eval()
    parts = [torch.randn(2, width, 6, 5) for width in widths]
    exact = block.double()(*(part.double() for part in parts))
    block.float()
    usual = block(*parts)
    assert convolutions.pop() is block.conv_shortcut
    rows = block(*(part.contiguous(memory_format=LAST) for part in parts))
    for result in (usual, rows):
        torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=0)
    assert convolutions.pop() is block.conv1, "the second one took no way of its own"


@torch.no_grad()
def test_a_shortcut_reads_its_input_and_leaves_it():
    block, part = ResnetBlock(8, 12, 4), torch.randn(1, 8, 4, 4).contiguous(memory_format=LAST)
    kept = part.clone()
    block(part)
    assert torch.equal(part, kept)


@torch.no_grad()
def test_a_part_of_a_norms_channels_is_that_part_of_the_whole():
    norm, x = torch.nn.GroupNorm(4, 16), torch.randn(1, 16, 4, 4)
    torch.nn.init.normal_(norm.weight)
    whole = torch.nn.functional.silu(norm(x))
    torch.testing.assert_close(group_norm(x[:, 8:], norm, slice(8, 16)), whole[:, 8:])
    torch.testing.assert_close(group_norm(x, norm, activated=False), norm(x))


def compiled(network):
    """Traced and lowered like for a compiler, but run by torch, so that no compiler has to be installed."""
    return torch.compile(network, backend="aot_eager")


@torch.no_grad()
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
def test_what_the_compiler_leaves_alone_has_the_layout_it_is_told(memory_format):
    torch.manual_seed(0)
    for block in (ResnetBlock(8, 12, 4), AttentionBlock(16, 8, 4)):
        x = torch.randn(1, 8 if isinstance(block, ResnetBlock) else 16, 6, 4).contiguous(memory_format=memory_format)
        torch.testing.assert_close(compiled(block)(x), block(x), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_decoder_can_be_compiled_in_one_piece(dtype):
    torch.manual_seed(0)
    decoder = TransparentDecoder(channels=(8, 8, 16, 16), layers=1, attention_levels=1, latent_level=2)
    decoder.eval().requires_grad_(requires_grad=False).with_precision(dtype)
    pixels, latent = torch.rand(1, 3, 32, 32).contiguous(memory_format=LAST), torch.randn(1, 4, 8, 8)
    graph = torch.compile(decoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(pixels, latent), decoder(pixels, latent), atol=1e-4, rtol=0)
