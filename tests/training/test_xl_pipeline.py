"""The layer stage on an SDXL pipeline folder: trains, exports, and what it exports does what training did."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.hosts.diffusers.tiny import tiny_pipeline
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop
from lib_layerdiffusion.unet.injection import WeightOffsets


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl")
    tiny_pipeline(xl=True).save_pretrained(folder / "pipeline")
    generator = torch.Generator().manual_seed(1)
    pairs = {name: torch.randn(4, 4, 8, 8, generator=generator) for name in ("fg", "adjusted", "bg", "blend")}
    torch.save({**pairs, "rows": torch.arange(4) % 2, "kinds": torch.arange(4)}, folder / "pairs.pt")
    return Workshop(folder, folder, ("fox", "owl"), pipeline=folder / "pipeline")


def test_text_is_that_of_the_pipeline(shop):
    _, text, _ = shop.base()
    pipeline = tiny_pipeline(xl=True)
    states, _, pooled, _ = pipeline.encode_prompt("a fox", device="cpu", do_classifier_free_guidance=False)
    found = text(["a fox"])
    assert torch.allclose(found.states, states, atol=1e-5)
    assert torch.allclose(found.pooled, pooled, atol=1e-5)


def test_a_stage_trains_and_exports(shop, tmp_path):
    torch.manual_seed(0)
    stage = shop.layer("fgble2bg")
    TrainingLoop(stage, LoopSettings(tmp_path, steps=2, batch=2, bf16=False, warmup=1, threads=1)).run(
        lambda line: None
    )
    state = stage.published()
    assert any(tensor.abs().sum() > 0 for key, tensor in state.items() if key.endswith("lora::0"))
    assert WeightOffsets.from_state_dict(state).condition_count == 2


def test_attention_sharing_is_refused(shop):
    with pytest.raises(SettingsError, match="made for SD1"):
        shop.layer("sd15_joint")
