"""Measuring goes the way that users go: through the engine, with its defaults."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.methods import METHODS
from lib_layerdiffusion.training import evaluate, fine
from lib_layerdiffusion.training.evaluate_family import Family, as_batch, as_pictures
from lib_layerdiffusion.training.evaluate_layers import SEVERAL, layer_figures
from lib_layerdiffusion.training.synthesis import BACKGROUNDS

SIZE = 128


class PerfectHost:
    """The latent of a picture is the picture."""

    default_size, decode_passes, scaling = SIZE, 4, 1.0

    def encode_start(self, picture, transparency):
        return as_batch([picture])

    def encode_pixels(self, pixels):
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)

    def decode_latents(self, latents):
        return 0.5 + (latents[:, :3] - 0.5) * latents[:, 3:]


class PerfectEngine:
    """Gives back what goes in; every picture of a subject is its own. It writes down how it was called."""

    def __init__(self, true=None):
        self.host, self.store = PerfectHost(), SimpleNamespace(find=lambda name: name)
        self.methods, self.true, self.calls, self.passes = tuple(METHODS.values()), true, [], []

    def encode(self, picture):
        return as_batch([picture])

    def decode(self, latent, passes=None):
        self.passes.append(passes)
        return Image.fromarray(as_pictures(latent)[0])

    def generate(self, prompt, *, method, seed, batch, **given):
        self.calls.append((prompt, method, seed, batch, given))
        row = next(row for row in self.methods if row.name == method)
        words = given.get("layer_prompts", {"foreground": prompt})
        subject = next((word.split(",")[0] for word in words.values() if word.split(",")[0] in self.true), "fox")
        layers = {layer: self.true[subject][str(layer)] for layer in row.frames}
        return SimpleNamespace(images=[SimpleNamespace(layers=layers)] * batch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two subjects in the 3D style, and two held-out pictures."""
    folder = tmp_path_factory.mktemp("data")
    rgba = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 4), dtype=np.uint8)
    rgba[:, :4, :, 3] = rgba[:, -4:, :, 3] = rgba[:, :, :4, 3] = rgba[:, :, -4:, 3] = 0
    np.save(folder / "rgba.npy", rgba)
    rows = [("fox", False), ("owl", False), ("hat", True), ("pin", True)]
    (folder / "index.json").write_text(json.dumps([{"name": n, "style": "3d", "held_out": h} for n, h in rows]))
    return folder


def test_pictures_go_through_the_engine_as_files_hold_them(data, monkeypatch):
    monkeypatch.setattr(Family, "decode_blind", lambda self, latents: torch.zeros_like(latents))
    engine = PerfectEngine()
    figures = evaluate.reconstruction_figures(Family(engine, ()), data)
    assert figures["held-out composites on nine colours, PSNR dB"] == pytest.approx(100)
    assert figures["held-out alpha MAE"] == 0
    assert figures["grey subjects alpha MAE"] == 0
    assert figures["grey subjects alpha MAE, latent zeroed"] > 0.4
    assert figures["composites on nine colours, SSIM *"] == pytest.approx(1)
    # The family's own number of passes is nobody's business but the engine's; other numbers are asked for by name.
    assert set(engine.passes) == {None, 1, 8}
    chosen = PerfectEngine()
    Family(chosen, (), passes=2).round_trip(torch.rand(1, 4, 8, 8))
    assert chosen.passes == [2]


def test_pictures_of_another_size_are_refused(data):
    family = Family(PerfectEngine(), ())
    family.engine.host.default_size = 256
    with pytest.raises(InputError, match="--size 256"):
        evaluate.held_out(family, data, 10)


def test_subjects_are_asked_for_by_their_names(data):
    rgba = np.load(data / "rgba.npy")
    engine = PerfectEngine(
        {name: {"foreground": Image.fromarray(rgba[row])} for row, name in enumerate(("fox", "owl"))}
    )
    figures = evaluate.text_figures(Family(engine, ("fox", "owl")), data, seeds=3)
    assert [call[:4] for call in engine.calls] == [("fox", "transparent", 0, 3), ("owl", "transparent", 0, 3)]
    assert all(call[4] == {} for call in engine.calls)
    assert figures["the right subject first, share"] == 1
    assert figures["clean border, share"] == 1
    assert figures["distance between seeds of a subject"] == pytest.approx(0, abs=1e-3)
    mixed = PerfectEngine({"fox": engine.true["owl"], "owl": engine.true["fox"]})
    assert evaluate.text_figures(Family(mixed, ("fox", "owl")), data)["the right subject first, share"] == 0


def test_layers_that_add_up_are_without_error(data):
    """An engine whose layers are the true ones: every figure is as good as rounding allows."""
    family = Family(PerfectEngine(), ("fox", "owl"))
    from lib_layerdiffusion.training.evaluate_layers import Scenes

    scenes = Scenes(family, data, 2)
    assert scenes.kinds == list(BACKGROUNDS)[:2]
    names = ("foreground", "background", "blended")
    parts = {name: [Image.fromarray(picture) for picture in as_pictures(getattr(scenes, name))] for name in names}
    family.engine.true = {s: {name: parts[name][row] for name in names} for row, s in enumerate(scenes.subjects)}
    # Scenes are asked for by their own words.
    family.engine.true |= {
        f"{kind} background": family.engine.true[s] for kind, s in zip(scenes.kinds, scenes.subjects, strict=True)
    }
    figures = layer_figures(family, data)
    assert figures["bg-blend-to-fg: alpha MAE"] == 0
    for name, value in figures.items():
        assert name.endswith("MAE") or value > 50, name
    called = {call[1]: call[4] for call in family.engine.calls}
    assert set(called["bg-blend-to-fg"]) == {"background", "blended"}
    assert set(called["everything"]["layer_prompts"]) == set(names)
    assert set(called["fg-to-bg"]["layer_prompts"]) == {"background", "blended"}
    assert set(SEVERAL) < set(called)


@pytest.mark.parametrize("kind", fine.FINE, ids=lambda kind: kind.__name__)
def test_fine_matter_stands_on_clear_ground(kind):
    true = fine.fine_set(kind, 64, 6, seed=1)
    assert torch.equal(true, fine.fine_set(kind, 64, 6, seed=1))
    alpha = true[:, 3]
    assert (alpha > 0.9).any(dim=1).any(dim=1).all()
    assert (alpha[:, :3] == 0).all()
    assert 0.01 < alpha.mean() < 0.4
    assert (true[:, :3].std(dim=(2, 3)) < 1e-6).all()


def test_stripes_have_whole_widths():
    for picture in fine.fine_set(fine.stripes, 64, 8, seed=2):
        alpha = picture[3] if (picture[3] == picture[3][:, 32:33]).any(dim=1).all() else picture[3].T
        middle = alpha[32, 8:-8] if len(alpha[32, 8:-8].unique()) == 2 else alpha[8:-8, 32]
        changes = middle.diff().nonzero().flatten()
        assert set(changes.diff().tolist()) <= set(fine.STRIPE_WIDTHS)
        assert len(set(changes.diff().tolist())) == 1


def test_the_table_says_what_must_not_be_compared():
    plain = evaluate.table({"alpha": 0.5}, "icons")
    assert plain.splitlines()[-1] == "| alpha | 0.5 |"
    marked = evaluate.table({"alpha *": 0.5}, "icons of 128x128 pixels")
    assert "icons of 128x128 pixels" in marked
    assert "LPIPS is left out" in marked
    assert "LPIPS is left out" not in evaluate.table({"LPIPS *": 0.1}, "icons")
