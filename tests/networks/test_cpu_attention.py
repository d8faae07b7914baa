"""Attention of narrow heads against torch's in double precision."""

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
SHAPES = [(2, 3, 256, 8), (1, 4, 1024, 8), (1, 1, 2000, 8), (1, 5, 7, 8), (1, 2, 1, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@torch.no_grad()
def test_it_is_attention(shape, scale):
    drawn_there = [x.bfloat16() for x in drawn(shape, scale)]
    exact = scaled_dot_product_attention(*(x.float() for x in drawn_there))
    result = attend(*drawn_there)
    assert result.dtype is torch.bfloat16
    assert (result.float() - exact).abs().mean() <= 0.004 * (1 + scale**2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("threads", [1, 3])
@torch.no_grad()
def test_in_single_precision_it_is_as_exact_as_torchs(shape, scale, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given = drawn(shape, scale)
    exact = scaled_dot_product_attention(*(x.double() for x in given))
    result, torchs = attend(*given), scaled_dot_product_attention(*given)
    assert result.shape == torchs.shape
    assert result.dtype is torch.float32
    assert (result - exact).abs().max() <= 2 * (torchs - exact).abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_scores_that_would_overflow_are_torchs(dtype):
    q, k, v = (x.to(dtype) for x in drawn((1, 2, 64, 8), 30.0))
    torch.testing.assert_close(attend(q, k, v), scaled_dot_product_attention(q, k, v), rtol=0, atol=0)
    assert attend(q, k, v).isfinite().all()


@torch.no_grad()
def test_what_is_no_number_stays_none():
    q, k, v = drawn((1, 2, 64, 8), 1.0)
    q[0, 0, 0, 0] = torch.nan
    assert attend(q, k, v)[0, 0, 0].isnan().all()
    assert attend(q, k, v)[0, 1].isfinite().all()


def test_other_precisions_and_gradients_are_torchs(monkeypatch):
    monkeypatch.setattr(cpu_attention, "_weighted", None)
    given = drawn((1, 2, 64, 8), 1.0)
    assert torch.equal(attend(*given), scaled_dot_product_attention(*given))
    halves = [x.half() for x in given]
    with torch.no_grad():
        assert torch.equal(attend(*halves), scaled_dot_product_attention(*halves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_largest_scores_that_are_allowed_stay_numbers(dtype):
    q = torch.full((1, 1, 4096, 8), 4.9).to(dtype)
    assert attend(q, -q, q).isfinite().all()
    torch.testing.assert_close(attend(q, q, q).float(), q.float(), rtol=0.02, atol=0)


@pytest.mark.parametrize(("threads", "most"), [(2, 32), (16, 32)])
@torch.no_grad()
def test_cores_meet_seldom(threads, most, monkeypatch):
    rounds = []
    product = torch.bmm
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "bmm", lambda *given, **out: rounds.append(1) or product(*given, **out))
    given = drawn((1, 32, 1024, 8), 1.0)
    torch.testing.assert_close(attend(*given), scaled_dot_product_attention(*given), atol=1e-5, rtol=0)
    assert len(rounds) <= 2 * most


@torch.no_grad()
def test_it_is_torchs_where_a_compiler_looks_in(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(cpu_attention, "_weighted", None)
    given = drawn((1, 2, 64, 8), 1.0)
    assert torch.equal(attend(*given), scaled_dot_product_attention(*given))
