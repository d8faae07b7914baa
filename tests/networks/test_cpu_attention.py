"""Attention of narrow heads in bfloat16 against torch's in float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lib_layerdiffusion.networks import cpu_attention
from lib_layerdiffusion.networks.cpu_attention import attend


def drawn(shape, scale):
    torch.manual_seed(0)
    return [torch.randn(shape) * scale for _ in range(2)] + [torch.randn(shape)]


# Heads of the published decoder at 16x16 and 32x32; more scores than are worked on at once; odd counts.
@pytest.mark.parametrize("shape", [(2, 3, 256, 8), (1, 4, 1024, 8), (1, 1, 2000, 8), (1, 5, 7, 8), (1, 2, 1, 16)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@torch.no_grad()
def test_it_is_attention(shape, scale):
    drawn_there = [x.bfloat16() for x in drawn(shape, scale)]
    exact = scaled_dot_product_attention(*(x.float() for x in drawn_there))
    result = attend(*drawn_there)
    assert result.dtype is torch.bfloat16
    assert (result.float() - exact).abs().mean() <= 0.004 * (1 + scale**2)


@torch.no_grad()
def test_scores_that_would_overflow_are_torchs():
    q, k, v = (x.bfloat16() for x in drawn((1, 2, 64, 8), 30.0))
    torch.testing.assert_close(attend(q, k, v), scaled_dot_product_attention(q, k, v), rtol=0, atol=0)
    assert attend(q, k, v).isfinite().all()


@torch.no_grad()
def test_other_precisions_are_torchs(monkeypatch):
    monkeypatch.setattr(cpu_attention, "_weighted", None)
    q, k, v = drawn((1, 2, 64, 8), 1.0)
    assert torch.equal(attend(q, k, v), scaled_dot_product_attention(q, k, v))


@torch.no_grad()
def test_the_largest_scores_that_are_allowed_stay_numbers():
    q = torch.full((1, 1, 4096, 8), 4.9).bfloat16()
    assert attend(q, -q, q).isfinite().all()
    torch.testing.assert_close(attend(q, q, q).float(), q.float(), rtol=0.02, atol=0)
