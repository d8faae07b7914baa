"""Data, words, procedural pictures and losses of the recipe."""

import json

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.training.data import IconSet, build_other, is_held_out, pad_colour, slug
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background, premultiply_grey, translucent
from lib_layerdiffusion.training.text import demo_subjects, learn_merges, write_tokenizer
from lib_layerdiffusion.training.transparency import greyed, perforated


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_padded_colour_continues_the_subject():
    rgba = np.zeros((32, 32, 4), np.float32)
    rgba[8:24, 8:24] = (0.9, 0.2, 0.1, 1.0)
    rgba[:4, :4, :3] = (0.0, 1.0, 0.0)  # invisible, so it must not leak
    padded = pad_colour(rgba)
    assert np.allclose(padded[8:24, 8:24], (0.9, 0.2, 0.1), atol=1e-5)
    assert np.abs(padded - (0.9, 0.2, 0.1)).max() < 0.02


def test_names_and_split():
    assert slug("Woman\u2019s Hat") == "womans-hat"
    share = np.mean([is_held_out(f"name-{i}") for i in range(2000)])
    assert 0.07 < share < 0.13


def test_icon_set_selects(tmp_path):
    rgba = np.arange(3 * 4 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4, 4)
    np.save(tmp_path / "rgba.npy", rgba)
    rows = [("a", "3d", False), ("b", "3d", True), ("a", "flat", False)]
    (tmp_path / "index.json").write_text(json.dumps([{"name": n, "style": s, "held_out": h} for n, s, h in rows]))
    assert IconSet.load(tmp_path, held_out=True).names == ("b",)
    only = IconSet.load(tmp_path, style="3d").only(["b", "a"])
    assert only.names == ("b", "a")
    assert np.array_equal(only.rgba, rgba[[1, 0]])
    with pytest.raises(InputError, match="no picture of c"):
        only.only(["c"])
    with pytest.raises(InputError, match="train data"):
        IconSet.load(tmp_path / "elsewhere")


def test_the_set_of_another_style_stands_apart(tmp_path):
    pytest.importorskip("resvg_py")
    package = tmp_path / "packages" / "iconify-json-openmoji-1.0.0"
    package.mkdir(parents=True)
    square = '<rect x="4" y="4" width="8" height="8" fill="{}"/>'
    names = [*(f"icon-{i}" for i in range(9)), "hand-dark-skin-tone"]
    icons = {name: {"body": square.format("#f00" if row % 2 else "#00f")} for row, name in enumerate(names)}
    (package / "icons.json").write_text(json.dumps({"icons": icons}))
    assert build_other(tmp_path, size=32, margin=0, count=3) == 3
    found = IconSet.load(tmp_path / "other")
    assert found.names == ("icon-0", "icon-4", "icon-8")
    assert tuple(found.rgba[0, 16, 16]) == (0, 0, 255, 255)
    assert found.rgba[0, 0, 0, 3] == 0
    with pytest.raises(InputError, match="train data"):
        IconSet.load(tmp_path)


def test_merges_join_every_word():
    words = ["tree", "three", "red", "tee"]
    merges = learn_merges(tuple(words))
    assert {"".join(pair) for pair in merges} >= {f"{word}</w>" for word in words}


def test_tokenizer_knows_each_word_and_spells_others(tmp_path):
    pytest.importorskip("transformers")
    tokenizer = write_tokenizer(tmp_path, demo_subjects())
    for subject in demo_subjects():
        assert len(tokenizer.tokenize(subject.replace("-", " "))) == len(subject.split("-"))
    tokens = tokenizer("zebra crossing").input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == "zebra crossing"


def test_procedural_pictures_are_translucent_and_repeatable():
    first, second = (translucent(generator(4), 48, 16) for _ in range(2))
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1
    partly = ((first[:, 3] > 0.05) & (first[:, 3] < 0.95)).float().mean()
    assert partly > 0.2
    for kind in BACKGROUNDS:
        scene = background(generator(), 32, kind)
        assert scene.shape == (3, 32, 32)
        assert scene.std() < 0.4


def test_greyed_subjects_vanish_on_grey():
    rgba = translucent(generator(), 32, 8)
    grey = greyed(rgba, generator(1))
    assert torch.equal(grey[:, 3], rgba[:, 3])
    assert (premultiply_grey(grey) - 0.5).abs().max() <= 0.126


def test_perforation_only_removes():
    rgba = torch.rand(4, 4, 32, 32, generator=generator())
    holes = perforated(rgba, generator(2))
    assert torch.equal(holes[:, :3], rgba[:, :3])
    assert (holes[:, 3] <= rgba[:, 3]).all()
    assert holes[:, 3].mean() < 0.95 * rgba[:, 3].mean()
