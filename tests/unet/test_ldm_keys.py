"""The derived key map against the key sets of real checkpoints and against diffusers' own models."""

import hashlib

import pytest

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.unet.ldm_keys import attention_units, diffusers_to_ldm, ldm_to_diffusers

SD15 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
}
SMALL = {
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}


def digest(keys):
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


# Count and digest of the sorted `model.diffusion_model.` keys of published checkpoints, prefix removed.
@pytest.mark.parametrize(
    ("config", "count", "expected"), [(SD15, 686, "3422671e7bd3eb47"), (SDXL, 1680, "fa772cb99a827a15")]
)
def test_ldm_names_are_those_of_the_checkpoint(config, count, expected):
    keys = diffusers_to_ldm(config)
    assert len(set(keys.values())) == len(keys) == count
    assert digest(keys.values()) == expected


def test_samples():
    sd15, sdxl = diffusers_to_ldm(SD15), diffusers_to_ldm(SDXL)
    assert sd15["up_blocks.0.upsamplers.0.conv.weight"] == "output_blocks.2.1.conv.weight"
    assert sd15["up_blocks.1.upsamplers.0.conv.bias"] == "output_blocks.5.2.conv.bias"
    assert sd15["down_blocks.1.resnets.0.conv_shortcut.weight"] == "input_blocks.4.0.skip_connection.weight"
    key = "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0.bias"
    assert sdxl[key] == "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0.bias"
    assert sdxl["add_embedding.linear_1.weight"] == "label_emb.0.0.weight"
    assert ldm_to_diffusers(SDXL)[sdxl[key]] == key


@pytest.mark.parametrize("config", [SMALL, {**SMALL, "layers_per_block": 2, "transformer_layers_per_block": 2}])
def test_diffusers_names_are_those_of_the_model(config):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(**config, sample_size=8, cross_attention_dim=16, norm_num_groups=2)
    assert set(diffusers_to_ldm(unet.config)) == set(unet.state_dict())
    modules = dict(unet.named_modules())
    units = attention_units(unet.config)
    assert set(units) == {name for name in modules if name.endswith((".attn1", ".attn2"))}


def test_unit_order_of_sd15():
    units = attention_units(SD15)
    assert len(units) == 32
    assert units[0] == "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert units[12] == "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
    assert units[30:] == [f"mid_block.attentions.0.transformer_blocks.0.attn{i}" for i in (1, 2)]


def test_disagreeing_configuration_is_refused():
    with pytest.raises(LayerDiffusionError, match=r"config\.json"):
        diffusers_to_ldm({**SMALL, "block_out_channels": [32, 64]})
