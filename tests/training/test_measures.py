"""Measures of RGBA pictures: known values, and what each is blind to."""

import math

import pytest
import torch

from lib_layerdiffusion.training.measures import (
    alpha_error,
    composite_psnr,
    gradient_error,
    on_nine_colours,
    psnr,
    soft_mse,
    soft_sad,
    spread_of_seeds,
    ssim,
)


def pictures(seed=0, count=2, size=32):
    return torch.rand(count, 4, size, size, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_of_the_mean_square_inside_the_mask():
    theirs = torch.zeros(1, 3, 4, 4)
    ours = theirs.clone()
    ours[..., :2] = 0.1
    assert psnr(ours, theirs) == pytest.approx(-10 * math.log10(0.005))
    where = torch.zeros(1, 1, 4, 4)
    where[..., :2] = 1
    assert psnr(ours, theirs, where) == pytest.approx(20, abs=1e-4)


def test_composites_are_blind_to_colour_under_alpha_0():
    theirs = pictures()
    theirs[:, 3] = theirs[:, 3].gt(0.5).float()
    ours = theirs.clone()
    ours[:, :3] = torch.where(theirs[:, 3:] == 0, 1 - ours[:, :3], ours[:, :3])
    assert composite_psnr(ours, theirs) == pytest.approx(100)
    assert alpha_error(ours, theirs) == 0
    ours[:, 3] *= 0.9
    assert composite_psnr(ours, theirs) < 30


def test_ssim_is_that_of_the_paper():
    """On flat pictures only the term of the means is left."""
    one, other = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6)
    assert ssim(one, other) == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4), rel=1e-4)
    noise = pictures()[:, :3]
    assert ssim(noise, noise) == pytest.approx(1)
    assert ssim(noise, 1 - noise) < 0
    assert on_nine_colours(ssim, pictures(), pictures()) == pytest.approx(1)


def test_matte_errors_look_at_soft_alpha_only():
    theirs = torch.zeros(1, 4, 10, 10)
    theirs[:, 3, :5] = 1.0
    theirs[:, 3, 5] = 0.5
    ours = theirs.clone()
    ours[:, 3, 5] = 0.7
    ours[:, 3, 0] = 0.0  # wrong, but not soft
    assert soft_sad(ours, theirs) == pytest.approx(10 * 0.2 / 1000)
    assert soft_mse(ours, theirs) == pytest.approx(0.04)


def test_gradient_error_is_that_of_an_edge():
    """A step across a picture: the smoothed step's slope is the Gaussian itself, in every row."""
    theirs = torch.zeros(1, 4, 40, 40)
    ours = theirs.clone()
    ours[:, 3, :, 20:] = 1
    line = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * 1.4**2))
    line = line / line.sum()
    # Sums of `-x g(x) / s^2` from one end: what a step leaves of the filter at each place.
    slopes = torch.cumsum(line * torch.arange(-4.0, 5.0) / 1.4**2, dim=0)
    assert gradient_error(ours, theirs) == pytest.approx(40 * float(slopes.square().sum()) / 1000, rel=1e-4)
    assert gradient_error(ours.transpose(-1, -2), theirs) == pytest.approx(gradient_error(ours, theirs), rel=1e-5)
    assert gradient_error(ours, ours) == 0


def test_spread_of_seeds_counts_pairs_of_unlike_pictures():
    same = pictures(count=3)
    assert spread_of_seeds(torch.stack([same, same])) == pytest.approx(0, abs=1e-3)
    white, black = torch.ones(1, 4, 32, 32), torch.zeros(1, 4, 32, 32)
    # White solid against nothing: alpha differs by 1 and colour on grey by 1/2 in each of 256 cells.
    apart = math.sqrt(256 * (1 + 3 * 0.25))
    assert spread_of_seeds(torch.stack([white, black])) == pytest.approx(apart, rel=1e-4)
    assert spread_of_seeds(torch.stack([white, black, black])) == pytest.approx(apart * 2 / 3, rel=1e-4)


def test_a_closely_framed_picture_does_not_tell_size_or_place():
    from lib_layerdiffusion.training.measures import closely_framed

    small, large = torch.zeros(2, 4, 64, 64).unbind(0)
    small[:, 4:12, 40:56] = large[:, 16:48, 0:64] = 1
    framed = closely_framed(torch.stack([small, large]), side=32)
    assert torch.allclose(framed[0], framed[1], atol=1e-5)
    assert framed[0, 3].mean() == 0.5
    assert closely_framed(torch.zeros(1, 4, 64, 64), side=32).abs().max() == 0
