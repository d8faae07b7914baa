"""An exported family read back: training goes on from the weights that were shipped."""

import json

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.base import new_unet
from lib_layerdiffusion.training.export import _tokenizer_as_published
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.layers import LowRank
from lib_layerdiffusion.training.loop import LoopSettings, step_generator
from lib_layerdiffusion.training.pools import hair_pool
from lib_layerdiffusion.training.start import load_unet
from lib_layerdiffusion.training.transparency import (
    ALONE_HAIR_SHARE,
    ALONE_SOFT_SHARE,
    DROP_SHARE,
    GREY_SHARE,
    HOLE_SHARE,
    SOFT_SHARE,
)
from lib_layerdiffusion.training.views import draw_views, each_turned_back
from lib_layerdiffusion.transparency import VIEWS, turned
from tests.training.random_families import METHODS, SUBJECTS, files, pairs, save


def test_exporting_what_was_started_from_gives_the_same_files(data, trained, tmp_path):
    shop = Workshop(data, tmp_path / "runs", SUBJECTS, start=trained, each=2)
    for name in METHODS:
        save(shop, name)
    shop.export(tmp_path / "again")
    before, after = files(trained), files(tmp_path / "again")
    assert after.keys() == before.keys()
    for name, tensors in before.items():
        assert tensors.keys() == after[name].keys()
        for key, value in tensors.items():
            # E's last layer was divided by its gain and multiplied again.
            assert torch.allclose(value.float(), after[name][key].float(), rtol=2e-3, atol=1e-6), (name, key)


def test_a_started_stage_is_not_fresh(data, trained, tmp_path):
    shop = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2)
    started, fresh = (stage.changes for stage in (shop.stage("bg2ble", tmp_path / "bg2ble"), shop.layer("bg2ble")))
    assert all(change.up.abs().sum() > 0 for change in started.values() if isinstance(change, LowRank))
    assert all(change.up.abs().sum() == 0 for change in fresh.values() if isinstance(change, LowRank))
    base = shop.stage("base", tmp_path / "base")
    scale = json.loads((trained / "vae" / "config.json").read_text())["scaling_factor"]
    assert base.scale == scale


def test_a_folder_that_is_no_family_is_refused(data, tmp_path):
    with pytest.raises(SettingsError, match="name an exported family"):
        Workshop(data, tmp_path, SUBJECTS, start=tmp_path).vae()


def test_words_that_a_family_knows_keep_their_meaning_beside_new_ones(data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("lib_layerdiffusion.training.text.demo_words", lambda: ("quagga",))
    started = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2).stage("base", tmp_path / "base").text
    before = Workshop(data, tmp_path / "elsewhere", SUBJECTS, start=trained, each=2).base()[1]
    assert len(started.tokenizer) != len(before.tokenizer)
    (old, new), end = ((side.encoder.get_input_embeddings().weight for side in (before, started)), "</w>")
    for word in ("fox", "owl", "background"):
        rows = [side.tokenizer.get_vocab()[word + end] for side in (before, started)]
        assert torch.equal(old[rows[0]], new[rows[1]])
    states = before.encoder.state_dict()
    others = [key for key in states if "token_embedding" not in key]
    assert all(torch.equal(states[key], started.encoder.state_dict()[key]) for key in others)
    assert torch.equal(started(["a fox"]), before(["a fox"]))


def test_every_release_of_transformers_can_read_what_is_exported(trained, tmp_path):
    names = {path.name for path in (trained / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt"} <= names
    assert "tokenizer.json" not in names
    config = json.loads((trained / "text_encoder" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert "dtype" not in config
    vocab = json.loads((trained / "tokenizer" / "vocab.json").read_text())
    assert len(vocab) == config["vocab_size"]
    merges = [["a", "p"], "p l"]
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 0, "l": 1, "p": 2}, "merges": merges}})
    )
    _tokenizer_as_published(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    assert (tmp_path / "merges.txt").read_text().splitlines() == ["#version: 0.2", "a p", "p l"]
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"a": 0, "l": 1, "p": 2}


def test_the_decoder_stage_learns_alone_and_is_what_is_exported(data, trained, tmp_path):
    shop = Workshop(data, tmp_path / "runs", SUBJECTS, start=trained, each=2)
    before = shop.transparency()
    shop.train("decoder", LoopSettings(shop.runs / "decoder", steps=2, batch=4, warmup=1, threads=1))
    after = shop.transparency()
    assert all(torch.equal(a, b) for a, b in pairs(before.encoder, after.encoder))
    assert not all(torch.equal(a, b) for a, b in pairs(before.decoder, after.decoder))
    shop.export(tmp_path / "again")
    written = files(tmp_path / "again")["layers/vae_transparent_decoder.safetensors"]
    assert all(torch.equal(written[key], value.half()) for key, value in after.decoder.state_dict().items())


@pytest.mark.parametrize("name", ["transparency", "decoder"])
def test_only_plain_icons_lose_their_offset(data, trained, tmp_path, name):
    stage = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2).stage(name, tmp_path / name)
    drawn = [stage.batch(12, step_generator(0, step))[1].flatten() for step in range(100)]
    soft = (SOFT_SHARE,) if name == "transparency" else (ALONE_SOFT_SHARE, ALONE_HAIR_SHARE)
    special = sum(max(1, round(12 * share)) for share in (GREY_SHARE, HOLE_SHARE, *soft))
    dropped = torch.stack(drawn).float().mean(0)
    assert (dropped[:special] == 0).all()
    assert dropped[special:].mean() == pytest.approx(DROP_SHARE, abs=0.1)


def test_where_d_learns_alone_a_third_is_hair(data, trained, tmp_path):
    shop = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2)
    alone = shop.stage("decoder", tmp_path / "decoder")
    rgba, _ = alone.batch(12, step_generator(0, 0))
    locks = hair_pool(alone.icons.shape[-1]).float() / 255
    views = torch.cat([turned(locks, view) for view in VIEWS])
    assert [bool((picture == views).flatten(1).all(1).any()) for picture in rgba] == [False] * 6 + [True] * 4 + [
        False
    ] * 2
    assert shop.stage("transparency", tmp_path / "transparency").hair is None


@pytest.mark.parametrize("name", ["transparency", "decoder"])
def test_a_batch_of_any_size_can_be_drawn(data, trained, tmp_path, name):
    stage = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2).stage(name, tmp_path / name)
    for count in range(1, 15):
        rgba, dropped = stage.batch(count, step_generator(0, count))
        assert (len(rgba), len(dropped)) == (count, count)


def test_d_sees_pairs_turned_and_gives_them_back_upright(data, trained, tmp_path):
    """A D that shows its own input: whatever the view, the picture comes back as it was."""
    stage = Workshop(data, tmp_path, SUBJECTS, start=trained, each=2).transparency()
    seen = []

    def show(pixels, latent):
        seen.append((pixels, latent))
        return torch.cat([latent[:, :1].repeat_interleave(8, 2).repeat_interleave(8, 3), pixels], dim=1)

    stage.decoder.forward = show
    latent = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    upright, picture = stage.decode(latent)
    views = draw_views(8, step_generator(0, 1))
    assert torch.equal(stage.decode(latent, views)[0], upright)
    for row, view in enumerate(VIEWS[number] for number in views.tolist()):
        assert torch.equal(seen[1][0][row], turned(picture[row : row + 1].clamp(0, 1), view)[0])
        assert torch.equal(seen[1][1][row], turned(latent[row : row + 1], view)[0])
    assert set(draw_views(200, step_generator(0, 0)).tolist()) == set(range(len(VIEWS)))
    every = torch.cat([turned(latent[:1], view) for view in VIEWS])
    assert torch.equal(each_turned_back(every, torch.arange(len(VIEWS))), latent[:1].expand(8, -1, -1, -1))


def test_a_larger_unet_takes_the_levels_that_it_shares(trained):
    large = new_unet(256)
    fresh = {key: value.clone() for key, value in large.state_dict().items()}
    load_unet(trained, large)
    before = files(trained / "unet")["diffusion_pytorch_model.safetensors"]
    after = large.state_dict()
    inner = "attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(after[f"down_blocks.1.{inner}"], before[f"down_blocks.0.{inner}"].float())
    assert torch.equal(after["mid_block.resnets.0.conv1.weight"], before["mid_block.resnets.0.conv1.weight"].float())
    top = "down_blocks.0.resnets.0.conv1.weight"
    assert torch.equal(after[top], fresh[top])
    assert large.config.sample_size == 32


def test_an_exported_family_says_what_it_knows(trained):
    card = json.loads((trained / "layerdiffusion.json").read_text())
    assert card["sizes"] == [[128, 128]]
    assert card["decode_passes"] == 8
    assert {"sunset", "blue", "blonde", "flat"} <= set(card["words"])
    assert "" not in card["words"]
    subjects = (trained / "subjects.txt").read_text().splitlines()
    assert {"fox", "glass bottle", "soap bubble"} <= set(subjects)
