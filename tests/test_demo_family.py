"""The bundled family: transparency works, not only shapes."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family
from lib_layerdiffusion.networks import precision
from lib_layerdiffusion.places import bundled_family
from lib_layerdiffusion.training.synthesis import translucent
from lib_layerdiffusion.training.text import TEMPLATES
from lib_layerdiffusion.transparency import LatentTransparency

FOLDER = bundled_family()


@pytest.fixture(scope="module")
def engine():
    return LayerDiffusion.from_checkpoint(device="cpu")


def soft_disc(colour, size):
    """A disc of one colour whose alpha falls from 1 to 0, uint8 [size, size, 4]."""
    line = np.linspace(-1, 1, size)
    distance = np.hypot(line[:, None], line[None])
    rgba = np.empty((size, size, 4), np.uint8)
    rgba[..., :3] = colour
    rgba[..., 3] = np.round(255 * np.clip((0.7 - distance) / 0.3, 0, 1))
    return rgba


def test_it_ships_whole_and_small():
    assert FOLDER is not None
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 26_000_000
    names = {path.stem for path in (FOLDER / "layers").glob("*.safetensors")}
    assert {method.weights for method in METHODS.values()} <= names
    assert {VAE_FILES[Family.SDXL].encoder, VAE_FILES[Family.SDXL].decoder} <= names


@pytest.mark.parametrize("prompt", ["red apple", "rocket", "sunflower"])
def test_a_subject_stands_on_a_clear_border(engine, prompt):
    rgba = np.asarray(engine.generate(prompt, seed=3).images[0].rgba).astype(float) / 255
    alpha = rgba[..., 3]
    inner = np.zeros(alpha.shape, bool)
    inner[4:-4, 4:-4] = True
    assert alpha[~inner].mean() < 0.05
    assert 0.05 < alpha.mean() < 0.9
    assert (alpha > 0.95).mean() > 0.03


def test_it_knows_the_words_that_it_was_taught_with(engine):
    taught = [template.format("blue apple") for template in TEMPLATES]
    assert engine.unknown_words(*taught, "soap bubble, sunset background", "flat fox") == ()
    assert engine.unknown_words("an iridescent fox") == ("iridescent",)


def test_a_prompt_gives_its_colour(engine):
    rgba = np.asarray(engine.generate("red apple", seed=3).images[0].rgba).astype(float)
    solid = rgba[rgba[..., 3] > 200][:, :3].mean(0)
    assert solid[0] > solid[1] + 60
    assert solid[0] > solid[2] + 60


def test_its_own_number_of_decode_passes_is_its_best(engine):
    """Composites over a few colours, as everybody gets them who leaves the number out."""
    true = translucent(torch.Generator().manual_seed(41), engine.host.default_size, 8)
    pictures = [np.ascontiguousarray(array) for array in (true * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    latents = [engine.encode(picture) for picture in pictures]

    def error(passes):
        total = 0.0
        for latent, picture in zip(latents, pictures, strict=True):
            ours, theirs = (np.asarray(rgba, float) / 255 for rgba in (engine.decode(latent, passes=passes), picture))
            for ground in (0.0, 0.5, 1.0):
                composites = (ground + (rgba[..., :3] - ground) * rgba[..., 3:] for rgba in (ours, theirs))
                total += np.log(np.mean(np.square(np.subtract(*composites))))
        return total

    errors = {passes: error(passes) for passes in (1, 2, 4, 8)}
    assert min(errors, key=errors.get) == engine.host.decode_passes


@pytest.mark.parametrize("passes", [1, 8])
@torch.no_grad()
def test_bfloat16_is_hardly_to_be_seen(engine, passes):
    """At most one level on average and two at the 99.9th percentile, seen on black, grey and white."""
    true = translucent(torch.Generator().manual_seed(7), engine.host.default_size, 4)
    pictures = [np.ascontiguousarray(array) for array in (true * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    latent = torch.cat([engine.encode(picture).data for picture in pictures]).float()
    vae = engine.host.pipeline.vae
    pixels = (vae.decode(latent.to(vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)
    exact = deepcopy(engine.store.decoder(Family.SDXL)).with_precision(torch.float32)
    rough = deepcopy(exact).with_precision(torch.bfloat16)
    one, other = (LatentTransparency(decoder=net).decode(pixels, latent, passes) for net in (exact, rough))
    grounds = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1, 1)
    seen = [255 * (grounds + (rgba[:, :3] - grounds) * rgba[:, 3:]) for rgba in (one, other)]
    for error in ((seen[0] - seen[1]).abs(), 255 * (one - other)[:, 3].abs()):
        assert 0 < error.mean() <= 1
        assert np.quantile(error.numpy(), 0.999) <= 2


def test_bfloat16_is_hardly_to_be_seen_in_layers_made_together(monkeypatch):
    """The same bounds for whole pictures of three frames, which see each other at every step."""

    def layers(has_it: bool) -> np.ndarray:
        monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: has_it)
        engine = LayerDiffusion.from_checkpoint(device="cpu")
        (made,) = engine.generate("red apple", method="everything", seed=5).images
        return np.stack([np.asarray(made.layers[layer].convert("RGBA"), np.float32) for layer in made.layers])

    grounds = np.array([0, 127.5, 255])[:, None, None, None, None]
    exact, rough = (grounds + (rgba[..., :3] - grounds) * rgba[..., 3:] / 255 for rgba in (layers(False), layers(True)))
    for error in np.abs(exact - rough).swapaxes(0, 1):
        assert 0 < error.mean() <= 1
        assert np.quantile(error, 0.999) <= 2


@pytest.mark.parametrize("colour", [(220, 60, 40), (127, 127, 127)], ids=["red", "the background's own grey"])
def test_alpha_travels_in_the_latent(engine, colour):
    """On the grey on which the VAE sees it a grey subject is invisible: its alpha can come from the offset only."""
    rgba = soft_disc(colour, engine.host.default_size)
    encoder, decoder = (
        deepcopy(network).float() for network in (engine.store.encoder(Family.SDXL), engine.store.decoder(Family.SDXL))
    )
    vae = engine.host.pipeline.vae
    straight = torch.from_numpy(rgba).permute(2, 0, 1)[None].float() / 255
    shown = 0.5 + (straight[:, :3] - 0.5) * straight[:, 3:]
    with torch.no_grad():
        posterior = vae.encode(shown * 2 - 1).latent_dist
        offset = encoder(torch.cat([straight[:, 3:], straight[:, :3]], dim=1))

        def alpha_error(latent):
            pixels = (vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
            return float((decoder(pixels, latent)[:, :1].clamp(0, 1) - straight[:, 3:]).abs().mean())

        with_offset = alpha_error(posterior.mean + posterior.std * offset)
        without = alpha_error(posterior.mean)
    assert with_offset < 0.06
    if colour == (127, 127, 127):
        assert with_offset < 0.5 * without
