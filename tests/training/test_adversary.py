"""The adversary: each loss reaches its own side, and colour under alpha 0 can't be judged."""

import torch

from lib_layerdiffusion.training.adversary import PatchDiscriminator, adversarial_losses, premultiplied


def test_each_loss_reaches_its_own_side():
    torch.manual_seed(0)
    judge, ours = PatchDiscriminator(), torch.rand(2, 4, 32, 32, requires_grad=True)
    fooled, told = adversarial_losses(judge, ours, torch.rand(2, 4, 32, 32))
    fooled.backward()
    assert ours.grad is not None
    assert ours.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    ours.grad = None
    told.backward()
    assert ours.grad is None
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_a_judge_learns_to_tell_and_a_picture_learns_to_fool_it():
    torch.manual_seed(0)
    judge, ours, theirs = PatchDiscriminator(), torch.zeros(2, 4, 32, 32), torch.ones(2, 4, 32, 32)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        fooled, told = adversarial_losses(judge, ours, theirs)
        optimizer.zero_grad()
        told.backward()
        optimizer.step()
        losses.append((float(fooled.detach()), float(told.detach())))
    assert losses[-1][1] < 0.5 * losses[0][1]
    assert losses[-1][0] > losses[0][0]
    assert judge(theirs).mean() > judge(ours).mean()


def test_colour_under_alpha_zero_is_not_seen():
    rgba = torch.rand(1, 4, 8, 8)
    rgba[:, 3:] = 0
    other = rgba.clone()
    other[:, :3] = torch.rand(1, 3, 8, 8)
    assert torch.equal(premultiplied(rgba), premultiplied(other))
