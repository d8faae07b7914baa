"""The layer stage on somebody else's pipeline folder: runs, and goes on after a stop exactly as without one."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lib_layerdiffusion.training import text as words
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop
from lib_layerdiffusion.unet.injection import WeightOffsets


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny SD1.5-style folder with random weights that predicts noise."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    tokenizer = words.write_tokenizer(folder / "tokenizer", ("fox", "owl"))
    words.new_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=128, attention_head_dim=2,
        norm_num_groups=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, scaling_factor=0.5).save_pretrained(folder / "vae")
    DDIMScheduler(prediction_type="epsilon").save_pretrained(folder / "scheduler")
    return folder


def shop(folder, pipeline):
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    pairs = {name: torch.randn(4, 4, 8, 8, generator=generator) for name in ("fg", "adjusted", "bg", "blend")}
    torch.save(
        {**pairs, "rows": torch.arange(4) % 2, "kinds": torch.arange(4), "words": ["fox", "owl"]}, folder / "pairs.pt"
    )
    return Workshop(folder, folder, ("fox", "owl"), pipeline=pipeline)


def loop(workshop, folder):
    torch.manual_seed(0)
    stage = workshop.layer("bg2ble")
    return TrainingLoop(stage, LoopSettings(folder, steps=4, batch=2, bf16=False, warmup=1))


def test_stopped_and_resumed_equals_uninterrupted(tmp_path, pipeline):
    workshop = shop(tmp_path / "runs", pipeline)
    whole = loop(workshop, tmp_path / "a")
    assert whole.stage.scale == 0.5
    assert whole.stage.prediction == "epsilon"
    whole.run(lambda line: None)
    stopped = loop(workshop, tmp_path / "b")
    stopped._one_step()
    stopped._one_step()
    stopped.save()
    resumed = loop(workshop, tmp_path / "b")
    assert resumed.step == 2
    resumed.run(lambda line: None)
    first, second = whole.stage.published(), resumed.stage.published()
    assert any(tensor.abs().sum() > 0 for key, tensor in first.items() if key.endswith("lora::0"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert WeightOffsets.from_state_dict(first).condition_count == 1
