"""Attention-sharing stage: fresh units change nothing, train, and export to a file that reads back."""

import pytest
import torch
from torch import nn

from lib_layerdiffusion.networks import AttentionSharing
from lib_layerdiffusion.training.loop import step_generator
from lib_layerdiffusion.training.sharing import SHARING_RECIPES, SharingStage

pytest.importorskip("diffusers")


class Words:
    encoder = nn.Linear(1, 1)

    def numbered(self, prompts):
        lengths = torch.tensor([float(len(words)) for words in prompts])
        return lambda numbers: lengths[numbers][:, None, None].expand(-1, 4, 8) / 50


def small_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
        norm_num_groups=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def stage(method):
    generator = torch.Generator().manual_seed(1)
    pairs = {name: torch.randn(3, 4, 8, 8, generator=generator) for name in ("fg", "adjusted", "bg", "blend")}
    pairs |= {f"pixels_{name}": torch.randint(256, (3, 3, 64, 64), generator=generator) for name in ("fg", "bg")}
    pairs |= {"rows": torch.arange(3), "kinds": torch.arange(3), "words": ["red apple", "fox", "owl"]}
    return SharingStage(SHARING_RECIPES[method], small_unet(), Words(), pairs, 1.0)


@pytest.mark.parametrize("method", list(SHARING_RECIPES))
def test_units_start_neutral_learn_and_export(method):
    trained = stage(method)
    x, t, text = torch.randn(6, 4, 8, 8), torch.tensor(5), torch.randn(6, 4, 8)
    with torch.no_grad():
        if trained.recipe.condition:
            trained.shared_run.signals = trained.sharing.signals(torch.rand(1, 3, 64, 64))
        # Alone, a unit's attention over its frames is the only addition, and its output starts at zero.
        assert torch.allclose(trained.unet(x, t, text).sample, small_unet()(x, t, text).sample, atol=1e-4)
    optimizer = torch.optim.Adam(trained.sharing.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss, _ = trained.loss(6, step_generator(0, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.99 * losses[0]
    state = trained.published()
    read = AttentionSharing.from_state_dict(state)
    assert read.frames == len(trained.recipe.frames)
    assert (read.kwargs_encoder is not None) == (trained.recipe.condition is not None)
    assert all(torch.equal(value.half(), state[key]) for key, value in read.state_dict().items())


def test_frames_have_prompts_of_their_own_or_all_the_blended_one():
    trained = stage("sd15_joint")
    numbers = trained.numbers(torch.zeros(600, dtype=torch.long), step_generator(0, 0))
    drawn = [[trained.prompts.texts[number] for number in row] for row in numbers.tolist()]
    assert all(len(words) == 3 for words in drawn)
    empty = [words for words in drawn if words == [""] * 3]
    single = [words for words in drawn if words[0] and len(set(words)) == 1]
    own = [words for words in drawn if len(set(words)) == 3]
    assert len(empty) + len(single) + len(own) == len(drawn)
    assert all("apple" in words[0] and "background" in words[0] for words in single)
    assert all("background" not in foreground and "apple" not in scene for foreground, scene, _ in own)
    assert 0.2 < len(single) / len(drawn) < 0.45
