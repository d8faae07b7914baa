"""Layer stage: fresh changes are the identity, and the exported file changes a UNet just as training did."""

import pytest
import torch
from torch import nn

from lib_layerdiffusion.training.layers import RECIPES, Conditioned, add_changes, published_keys, widen
from lib_layerdiffusion.unet.ldm_keys import ldm_to_diffusers

pytest.importorskip("diffusers")


def small_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
        norm_num_groups=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def inputs(channels):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(1, channels, 8, 8, generator=generator),
        torch.tensor([5]),
        torch.randn(1, 4, 8, generator=generator),
    )


def shake(changes: dict[str, nn.Module]):
    torch.manual_seed(9)
    with torch.no_grad():
        for change in changes.values():
            for parameter in change.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1).copy_(parameter.half().float())


@pytest.mark.parametrize("method", list(RECIPES))
@torch.no_grad()
def test_exported_file_does_what_training_did(method):
    recipe = RECIPES[method]
    plain, trained = small_unet(), small_unet()
    channels = 4 * (1 + len(recipe.conditions))
    changes = add_changes(trained, recipe)
    x, t, text = inputs(channels)
    fresh = trained(x, t, text).sample
    assert torch.allclose(fresh, plain(x[:, :4], t, text).sample, atol=1e-5)

    shake(changes)
    changed = trained(x, t, text).sample
    assert (changed - fresh).abs().max() > 1e-3

    if recipe.conditions:
        widen(plain, channels)
    parameters, names = dict(plain.named_parameters()), ldm_to_diffusers(plain.config)
    state = published_keys(changes, plain.config)
    for key, tensor in state.items():
        root, kind, index = key.split("::")
        weight = parameters[names[root.removeprefix("diffusion_model.")]]
        if kind == "diff":
            weight.add_(tensor.float())
        elif index == "0":
            weight.add_((tensor.float() @ state[f"{root}::lora::1"].float()).reshape(weight.shape))
    assert torch.allclose(plain(x, t, text).sample, changed, atol=1e-4)


def test_only_the_changes_train():
    unet = small_unet()
    changes = add_changes(unet, RECIPES["bg2ble"])
    trainable = {id(p) for p in unet.parameters() if p.requires_grad}
    assert trainable == {id(p) for change in changes.values() for p in change.parameters()}


def test_conditions_are_repeated_for_guidance():
    class Echo(nn.Module):
        def forward(self, x, t, text):
            return x

    condition = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 4, 1, 1)
    out = Conditioned(Echo(), [condition])(torch.zeros(4, 4, 1, 1), torch.tensor(0), torch.zeros(1))
    assert out[:, 4].flatten().tolist() == [0, 1, 0, 1]
