"""The base goes on: latents with E's offset come under a marked prompt, and the family's base is what came of it."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.loop import LoopSettings
from lib_layerdiffusion.training.offset import OFFSET_SHARE
from lib_layerdiffusion.training.text import OFFSET_MARK
from tests.training.random_families import SUBJECTS, files, pairs, save


@pytest.fixture
def shop(data, trained, tmp_path):
    return Workshop(data, tmp_path / "runs", SUBJECTS, start=trained, each=2)


def test_latents_with_the_offset_come_under_marked_prompts_and_no_others(shop):
    stage = shop.stage("offset", shop.runs / "offset")
    known = {name: {row.numpy().tobytes() for row in getattr(stage, name)} for name in ("grey", "blends", "adjusted")}
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(40):
        for latent, first in zip(*stage.draw(8, generator), strict=True):
            row = latent.numpy().tobytes()
            is_marked = stage.prompts.texts[int(first)].endswith(OFFSET_MARK)
            assert row in known["adjusted"] if is_marked else row in known["grey"] | known["blends"]
            found.append(is_marked)
    assert sum(found) / len(found) == pytest.approx(OFFSET_SHARE, abs=0.08)


def test_a_marked_prompt_names_the_subject_whose_latent_it_stands_for(shop):
    stage = shop.stage("offset", shop.runs / "offset")
    for row, first in enumerate(stage.marked.tolist()):
        words = shop.pairs["words"][int(shop.pairs["rows"][row])]
        assert stage.prompts.texts[first] == f"{words}{OFFSET_MARK}"
    scale = stage.scale
    assert torch.allclose(stage.adjusted, shop.pairs["adjusted"] * scale)
    # The mark is a word of its own to the tokenizer, so that every subject shares it.
    plain, marked = (stage.text.tokenizer.tokenize(f"fox{mark}") for mark in ("", OFFSET_MARK))
    assert marked[: len(plain)] == plain
    assert len(marked) == len(plain) + 1


def test_it_goes_on_from_the_base_and_takes_its_place(shop, tmp_path):
    save(shop, "base", spread=0.01)
    before = shop.base()[0]
    stage = shop.stage("offset", shop.runs / "offset")
    assert all(torch.equal(a, b) for a, b in pairs(before, stage.unet))
    shop.train("offset", LoopSettings(shop.runs / "offset", steps=2, batch=4, warmup=1, threads=1))
    after, text, _ = shop.base()
    assert not all(torch.equal(a, b) for a, b in pairs(before, after))
    shop.export(tmp_path / "again")
    written = files(tmp_path / "again")["unet/diffusion_pytorch_model.safetensors"]
    assert all(torch.equal(written[key], value.half()) for key, value in after.state_dict().items())
    assert text.tokenizer.get_vocab() == stage.text.tokenizer.get_vocab()


def test_without_a_base_there_is_nothing_to_go_on_from(data, tmp_path):
    fresh = Workshop(data, tmp_path / "runs", SUBJECTS, each=2)
    with pytest.raises(SettingsError, match="run the stage before this one first"):
        fresh.stage("offset", fresh.runs / "offset")
    assert not fresh.runs.exists()


def test_somebody_elses_base_stays_as_it_is(data, tmp_path):
    elsewhere = Workshop(data, tmp_path / "runs", SUBJECTS, pipeline=tmp_path)
    with pytest.raises(SettingsError, match="leave out --pipeline"):
        elsewhere.stage("offset", tmp_path / "runs" / "offset")
