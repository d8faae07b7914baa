"""Parts of the recipe's loss: each looks at what its name says, and only there."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib_layerdiffusion.training.losses import (
    FeatureDistance,
    LossWeights,
    blend_error,
    decibels,
    reconstruction_error,
    soft_error,
)

NOTHING = LossWeights(alpha=0, colour=0, soft=0, blend=0, edges=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_blend_error_is_the_mean_over_backgrounds():
    ours, theirs = (torch.rand(2, 4, 8, 8, generator=generator(seed), dtype=torch.float64) for seed in (1, 2))
    greys = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    over = [[rgba[:, :3] * rgba[:, 3:] + g * (1 - rgba[:, 3:]) for rgba in (ours, theirs)] for g in greys[::40]]
    errors = torch.stack([(one - other).square().mean(dim=(1, 2, 3)) for one, other in over]).mean(0)
    assert torch.allclose(blend_error(ours, theirs), errors, rtol=2e-2)
    assert torch.equal(blend_error(ours, ours), torch.zeros(len(ours), dtype=torch.float64))


def test_soft_error_looks_only_where_the_true_alpha_is_partial():
    true = torch.tensor([0.0, 1.0, 0.5, 0.25]).reshape(1, 1, 2, 2)
    found = torch.tensor([1.0, 0.0, 0.7, 0.15]).reshape(1, 1, 2, 2)
    assert float(soft_error(found, true)) == pytest.approx(0.15)
    assert float(soft_error(found, torch.ones_like(true))) == 0


def test_decibels_count_a_halved_error_the_same_anywhere():
    bad, good = torch.tensor([0.4, 0.04])
    assert float(decibels(bad[None]) - decibels(bad[None] / 2)) == pytest.approx(0.693, abs=0.01)
    assert float(decibels(good[None]) - decibels(good[None] / 2)) == pytest.approx(0.693, abs=0.01)


@pytest.mark.parametrize("part", ["alpha", "colour", "soft", "blend", "edges"])
def test_each_part_is_least_at_the_truth(part):
    true = torch.rand(2, 4, 16, 16, generator=generator())
    weights = replace(NOTHING, **{part: 1.0})
    found = (true + 0.1 * torch.randn(true.shape, generator=generator(1))).requires_grad_()
    error = reconstruction_error(found, true, weights)
    assert error > reconstruction_error(true, true, weights)
    error.backward()
    assert found.grad.abs().sum() > 0
    if part in ("alpha", "soft"):
        assert found.grad[:, :3].abs().sum() == 0
    if part == "colour":
        assert found.grad[:, 3].abs().sum() == 0


@torch.no_grad()
def test_features_tell_a_blur_from_a_shade():
    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Module()
            self.encoder.conv_in = nn.Conv2d(3, 8, 3, padding=1)
            self.encoder.down_blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)])

    torch.manual_seed(0)
    distance = FeatureDistance(Vae())
    sharp = torch.rand(1, 3, 32, 32, generator=generator())
    blurred = nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    shaded = sharp + (blurred - sharp).square().mean().sqrt()
    assert float(distance(sharp, sharp)) == 0
    assert float(distance(blurred, sharp)) > 2 * float(distance(shaded, sharp))
