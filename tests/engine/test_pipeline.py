"""The engine: what it makes, what it refuses, and that it leaves the pipeline as it was."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from dataclasses import replace

import pytest

pytest.importorskip("diffusers")

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import lib_layerdiffusion
from lib_layerdiffusion.engine.choices import Choices
from lib_layerdiffusion.errors import (
    HostError,
    InputError,
    LayerDiffusionError,
    ModelError,
    SettingsError,
    WeightsError,
)
from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost
from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion
from lib_layerdiffusion.hosts.diffusers.sources import open_source
from lib_layerdiffusion.hosts.diffusers.tiny import tiny_pipeline
from lib_layerdiffusion.images.arithmetic import flatten_on_grey
from lib_layerdiffusion.images.edges import clean_edges
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.images.opacity import PLAIN_BACKGROUND
from lib_layerdiffusion.images.outputs import content_box
from lib_layerdiffusion.methods import METHODS, Family, Layer
from lib_layerdiffusion.places import RANDOM_MODEL
from lib_layerdiffusion.settings.infotext import from_infotext, parse_parameters
from lib_layerdiffusion.transparency import LatentTransparency, rgba_arrays
from lib_layerdiffusion.weights import WeightStore
from tests.tiny_family import ALL_METHODS, changed, new_card, new_engine, picture, snapshot, write_family

FG, BG, BLEND = picture(80, 64, 1), picture(64, 90, 2), picture(70, 70, 3)


def pixels(image):
    return np.asarray(image)


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.weights)
def test_every_method_gives_its_layers_and_leaves_no_trace(engine, method):
    before = snapshot(engine.host.pipeline)
    result = engine.generate(
        "an apple", method=method, seed=5, batch=2, foreground=FG, background=BG, blended=BLEND, size=(72, 64)
    )
    assert len(result.images) == 2
    for image in result.images:
        assert tuple(image.layers) == method.frames
        for layer, made in image.layers.items():
            assert made.size == (72, 64)
            assert made.mode == ("RGBA" if layer is Layer.FOREGROUND else "RGB")
        assert set(image.previews) == ({Layer.FOREGROUND} if method.has_alpha else set())
    assert [image.seed for image in result.images] == [5, 5 + method.frame_count]
    assert set(result.timings) == {"load", "prepare", "sample", "decode"}
    assert changed(engine.host.pipeline, before) == []


def test_same_seed_same_picture_on_its_own_or_in_a_batch(engine):
    both = engine.generate("an apple", seed=8, batch=2)
    again = engine.generate("an apple", seed=9)
    difference = pixels(both.images[1].rgba).astype(int) - pixels(again.images[0].rgba)
    assert np.abs(difference).max() <= 1
    assert (pixels(both.images[0].rgba) != pixels(both.images[1].rgba)).any()


def test_a_second_run_merges_nothing_and_gives_the_same(engine, monkeypatch):
    first = engine.generate("an apple", seed=1)
    kept = engine.host._kept.patch
    second = engine.generate("an apple", seed=1)
    assert engine.host._kept.patch is kept
    assert pixels(first.images[0].rgba).tobytes() == pixels(second.images[0].rgba).tobytes()
    weight = engine.host.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
    own = weight.data.clone()
    weight.data *= -3  # as fusing a LoRA might
    third = engine.generate("an apple", seed=1)
    assert engine.host._kept.patch is not kept
    assert pixels(third.images[0].rgba).tobytes() != pixels(first.images[0].rgba).tobytes()
    weight.data = own


@pytest.mark.parametrize("name", ["transparent", "(SDXL) From Foreground to Blending", "From Foreground to Blending"])
def test_methods_by_any_of_their_names(engine, name):
    assert engine.find_method(name).family is Family.SDXL


def test_the_family_picks_the_row(layers):
    assert new_engine(layers, (Family.SD15,)).find_method("transparent").family is Family.SD15
    assert new_engine(layers, (Family.SDXL,)).find_method("transparent").family is Family.SDXL
    with pytest.raises(ModelError, match=r"needs an SD1\.5 model"):
        new_engine(layers, (Family.SDXL,)).find_method("(SD1.5) Generate Everything Together")


REFUSED = [
    ({"method": "glass"}, SettingsError, "There is no method"),
    ({"method": "fg-to-blend"}, InputError, "needs a foreground picture"),
    ({"method": "fg-to-blend", "foreground": "nowhere.png"}, InputError, "nowhere.png"),
    ({"method": "fg-to-blend", "foreground": b"nonsense"}, InputError, "cannot be read"),
    ({"size": (0, 64)}, SettingsError, "each side"),
    ({"size": (100, 64)}, SettingsError, "multiple of 8"),
    ({"size": (100_000, 64)}, SettingsError, "each side"),
    ({"size": (8192, 8192)}, SettingsError, "too large"),
    ({"size": "wide"}, SettingsError, "unclear"),
    ({"steps": 0}, SettingsError, "steps"),
    ({"steps": 2.5j}, SettingsError, "steps"),
    ({"batch": 0}, SettingsError, "batch"),
    ({"guidance": float("nan")}, SettingsError, "guidance"),
    ({"seed": -1}, SettingsError, "seed"),
    ({"weight": 3}, SettingsError, "Weight"),
    ({"stop_at": -1}, SettingsError, "Stop At"),
    ({"decode_passes": 3}, SettingsError, "passes"),
    ({"sampler": "Quick"}, SettingsError, "no sampler"),
    ({"layer_prompts": {"sky": "blue"}}, SettingsError, "no layer"),
    ({"mask": FG}, SettingsError, "init picture"),
    ({"init_image": FG, "strength": 0.0}, SettingsError, "no step"),
    ({"init_image": FG, "mask": Image.new("L", (8, 8))}, SettingsError, "black everywhere"),
]


@pytest.mark.parametrize(("arguments", "kind", "match"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_used_is_refused_in_one_sentence(engine, arguments, kind, match):
    before = snapshot(engine.host.pipeline)
    with pytest.raises(kind, match=match) as caught:
        engine.generate("an apple", **arguments)
    assert "\n" not in str(caught.value)
    assert changed(engine.host.pipeline, before) == []


def test_an_unknown_argument_is_pythons_own_error(engine):
    with pytest.raises(SettingsError, match='did you mean "weight"'):
        engine.generate("an apple", wieght=1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"layer_xl_transparent_attn\.safetensors"):
        new_engine(tmp_path / "empty").generate("an apple")


def test_stopping_in_the_middle_leaves_the_pipeline_plain(engine):
    before = snapshot(engine.host.pipeline)

    def stop(stage, done, _total):
        if (stage, done) == ("sample", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate("an apple", progress=stop)
    assert changed(engine.host.pipeline, before) == []


def test_progress_tells_both_stages_to_their_ends(engine):
    seen = []
    engine.generate("an apple", batch=2, steps=3, progress=lambda *step: seen.append(step))
    assert seen[:3] == [("sample", 1, 3), ("sample", 2, 3), ("sample", 3, 3)]
    # Of each picture the VAE's pass and eight of the transparency decoder; some of those share a batch.
    decoded = [done for stage, done, total in seen[3:] if (stage, total) == ("decode", 18)]
    assert len(decoded) == len(seen) - 3
    assert decoded == sorted(set(decoded))
    assert {1, 9, 10, 18} <= set(decoded)


def test_progress_counts_the_passes_of_every_frame(engine):
    seen = []
    engine.generate("x", method="everything", decode_passes=2, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("decode", 5, 5)  # a foreground by 1 + 2 passes, background and blended by the VAE's alone


def test_weight_and_stop_at_count_in_pictures(engine):
    def made(**values):
        return pixels(
            engine.generate("an apple", seed=3, method="fg-to-blend", foreground=FG, **values).images[0].blended
        )

    assert (made(weight=0) == made(stop_at=0)).all()
    assert (made() != made(weight=0)).any()
    assert (made(stop_at=0.5) != made()).any()


def test_a_layers_own_prompt_changes_its_frame(engine):
    arguments = {"method": "everything", "seed": 3, "layer_prompts": {"background": "a wide sea"}}
    plain = engine.generate("an apple", **{**arguments, "layer_prompts": {}}).images[0]
    own = engine.generate("an apple", **arguments).images[0]
    assert (pixels(plain.background) != pixels(own.background)).mean() > 0.1


def test_the_prompt_aid_is_a_prompt_of_the_transparent_layer(engine):
    written = {"foreground": f"glass, {PLAIN_BACKGROUND}"}
    arguments = {"method": "everything", "seed": 3}
    aided = engine.generate("an apple", **arguments, layer_prompts={"foreground": "glass"}, prompt_aid=True).images[0]
    by_hand = engine.generate("an apple", **arguments, layer_prompts=written).images[0]
    assert (pixels(aided.rgba) == pixels(by_hand.rgba)).all()
    assert "LayerDiffusion plain background: True" in aided.infotext


def test_edges_are_cleaned_on_request(engine):
    plain = engine.generate("an apple", seed=3).images[0]
    cleaned = engine.generate("an apple", seed=3, edge_cleanup=0.8, alpha_low=0.3, alpha_high=0.7).images[0]
    wanted = clean_edges(pixels(plain.rgba), strength=0.8, black_point=0.3, white_point=0.7)
    assert (pixels(cleaned.rgba) == wanted).all()
    assert (wanted != pixels(plain.rgba)).any()


def test_layers_are_trimmed_and_taken_apart_on_request(engine, tmp_path):
    levels = {"alpha_low": 0.45, "alpha_high": 0.55}
    plain = engine.generate("an apple", seed=3, **levels).images[0]
    result = engine.generate("an apple", seed=3, trim=True, rgb_and_mask=True, **levels)
    made = result.images[0]
    whole = pixels(plain.rgba)
    left, top, right, bottom = content_box(whole)
    assert (pixels(made.rgba) == whole[top:bottom, left:right]).all()
    assert (pixels(made.masks[Layer.FOREGROUND]) == pixels(made.rgba)[..., 3]).all()
    seen = pixels(made.rgba)[..., 3] > 0
    assert (pixels(made.colours[Layer.FOREGROUND])[seen] == pixels(made.rgba)[seen][:, :3]).all()
    assert set(made.save(tmp_path, "apple")) == {"foreground", "foreground-rgb", "foreground-mask"}
    result.save_layers(tmp_path / "apple.ora")
    stack = read_ora(tmp_path / "apple.ora")
    assert (stack.height, stack.width) == whole.shape[:2]
    assert (stack.layers[0].left, stack.layers[0].top) == (left, top)
    assert (stack.layers[0].picture == pixels(made.rgba)).all()


@pytest.mark.parametrize("method", ["fg-to-blend", "fg-to-bg"])
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_no_picture_and_no_weight(engine, layers, monkeypatch, offload, method):
    accelerate = pytest.importorskip("accelerate")
    other = new_engine(layers)
    before = snapshot(other.host.pipeline)

    def layer_by_layer(pipeline, device):
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            accelerate.cpu_offload(part, torch.device(device))

    # Onto the CPU again, with the hooks of a GPU. diffusers' own call asks for "cpu:0", which accelerate cannot do.
    monkeypatch.setattr(type(other.host.pipeline), "enable_sequential_cpu_offload", layer_by_layer)
    getattr(other.host.pipeline, f"enable_{offload}_cpu_offload")(device="cpu")
    offloaded = LayerDiffusion(EngineHost(other.host.pipeline, new_card(), offload, exact=True), other.store)
    for _ in range(2):
        results = [
            one.generate("an apple", method=method, foreground=FG, seed=4, size=64).images[0]
            for one in (engine, offloaded)
        ]
        # Weights that come layer by layer are not there to fold updates into: the same products in another order, which
        # may round a value to the level beside.
        moved = np.abs(pixels(results[0].blended).astype(int) - pixels(results[1].blended))
        assert moved.max() <= (1 if offload == "sequential" else 0)
        assert (moved > 0).mean() < 1e-3
    other.host.pipeline.remove_all_hooks()
    assert changed(other.host.pipeline, before) == []


class TestStartingFromAPicture:
    def test_outside_the_mask_nothing_changes_alpha_included(self, engine):
        start, mask = picture(64, 80, 4), Image.new("L", (80, 64))
        mask.paste(255, (0, 0, 40, 32))
        made = pixels(engine.generate("x", init_image=start, mask=mask, strength=0.7, seed=1).images[0].rgba)
        outside = pixels(mask) == 0
        assert (made[outside] == pixels(start)[outside]).all()
        assert (made[~outside] != pixels(start)[~outside]).mean() > 0.5

    def test_the_same_for_a_layer_without_alpha(self, engine):
        start, mask = picture(64, 64, 4), Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 32, 64))
        arguments = {"method": "fg-to-blend", "foreground": FG, "init_image": start, "mask": mask, "seed": 1}
        made = pixels(engine.generate("x", **arguments).images[0].blended)
        assert (made[:, 32:] == flatten_on_grey(pixels(start))[:, 32:]).all()

    def test_alpha_goes_into_the_latent(self, engine):
        solid, clear = picture(64, 64, 4), picture(64, 64, 4)
        clear.putalpha(Image.fromarray(np.where(np.arange(64)[None] < 32, 255, 0).repeat(64, 0).astype(np.uint8)))
        host, encoder = engine.host, engine.store.encoder(Family.SDXL)
        from lib_layerdiffusion.transparency import LatentTransparency

        for image in (solid, clear):
            rgba = pixels(image)
            transparency = LatentTransparency(encoder=encoder)
            grey = torch.from_numpy(flatten_on_grey(rgba) / 255).float().permute(2, 0, 1)[None]
            mean, deviation = host.posterior(grey)
            wanted = (mean + deviation * transparency.encode_offset(rgba)) * host.scaling
            assert torch.allclose(host.encode_start(rgba, transparency), wanted, atol=1e-5)

    def test_odd_sizes_are_brought_to_multiples_of_eight(self, engine):
        assert engine.generate("x", init_image=picture(70, 99), strength=0.9).images[0].rgba.size == (96, 64)


class TestChains:
    def test_a_foreground_from_a_background(self, engine):
        result = engine.extract_foreground(background=BG, prompt="a cat", seed=5, batch=2, size=64)
        for image in result.images:
            assert (image.foreground.mode, image.blended.mode, image.background.mode) == ("RGBA", "RGB", "RGB")
            assert (pixels(image.background) == pixels(BG.convert("RGB"))).all()
        # The second step is what it would be by hand.
        first = engine.generate("a cat", method="bg-to-blend", background=BG, seed=5, size=64).images[0]
        second = engine.generate(
            "a cat", method="bg-blend-to-fg", background=BG, blended=first.blended, seed=5, size=64
        ).images[0]
        difference = pixels(second.rgba).astype(int) - pixels(result.images[0].foreground)
        assert np.abs(difference).max() <= 2

    def test_a_background_from_a_foreground(self, engine):
        image = engine.extract_background(foreground=FG, prompt="a room", seed=5).images[0]
        assert set(image.layers) == set(Layer)
        assert (pixels(image.foreground) == pixels(FG)).all()

    def test_sd15_does_it_in_one_step(self, layers):
        result = new_engine(layers, (Family.SD15,)).extract_foreground(background=BG, prompt="a cat", seed=5)
        assert set(result.images[0].layers) == set(Layer)
        assert result.settings.method.name == "bg-to-fg"

    def test_two_steps_with_two_prompts(self, engine, monkeypatch):
        asked = []
        plain = engine.generate

        def spy(prompt, **arguments):
            asked.append((arguments["method"].name, prompt))
            return plain(prompt, **arguments)

        monkeypatch.setattr(engine, "generate", spy)
        engine.extract_foreground(background=BG, prompt="a cat", scene="a sofa", seed=5)
        engine.extract_background(foreground=FG, prompt="a cat", scene="a sofa", seed=5)
        assert asked == [
            ("bg-to-blend", "a cat, a sofa"),
            ("bg-blend-to-fg", "a cat"),
            ("fg-to-blend", "a cat, a sofa"),
            ("fg-blend-to-bg", "a sofa"),
        ]

    def test_two_prompts_in_the_single_step_of_sd15_go_to_their_frames(self, layers):
        engine = new_engine(layers, (Family.SD15,))
        result = engine.extract_foreground(background=BG, prompt="a cat", scene="a sofa", seed=5)
        assert result.settings.prompts[Layer.FOREGROUND] == "a cat"
        assert result.settings.prompts[Layer.BLENDED] == "a cat, a sofa"
        by_hand = {"foreground": "a cat", "blended": "a cat, a sofa"}
        same = engine.generate("", method="bg-to-fg", background=BG, seed=5, layer_prompts=by_hand)
        assert (pixels(same.images[0].foreground) == pixels(result.images[0].foreground)).all()

    def test_a_chain_needs_its_picture(self, engine):
        with pytest.raises(SettingsError, match="background"):
            engine.extract_foreground(background=None, prompt="a cat")
        with pytest.raises(SettingsError, match="prompt must be text"):
            engine.extract_foreground(background=BG, prompt="a cat", scene=5)


def test_the_infotext_restores_the_settings(engine, tmp_path):
    result = engine.generate(
        "an apple,\nred", negative_prompt="blurry", method="fg-to-blend", foreground=FG, weight=0.8, stop_at=0.5,
        seed=77, sampler="DPM++ 2M Karras", steps=4, guidance=2.5, size="72x64",
    )  # fmt: skip
    files = result.images[0].save(tmp_path, "a")
    assert list(files) == ["blended"]
    with Image.open(files["blended"]) as saved:
        text = saved.info["parameters"]
    assert text.startswith(
        "an apple,\nred\nNegative prompt: blurry\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Karras, "
    )
    values = parse_parameters(text)
    assert (values["CFG scale"], values["Seed"], values["Size"], values["Model"]) == ("2.5", "77", "72x64", "tiny")
    restored = from_infotext(values).settings
    assert (restored.method, restored.weight, restored.stop_at) == (
        METHODS["(SDXL) From Foreground to Blending"],
        0.8,
        0.5,
    )


def test_several_layers_are_files_of_their_own(engine, tmp_path):
    image = engine.generate("an apple", method="everything", seed=1, output_origin=True).images[0]
    files = image.save(tmp_path, "a", previews=True)
    names = {"foreground", "background", "blended", "foreground-before-decoding", "foreground-preview"}
    assert {path.name for path in tmp_path.iterdir()} == {f"a-{name}.png" for name in names}
    with Image.open(files["foreground"]) as saved:
        assert saved.mode == "RGBA"
        assert (pixels(saved) == pixels(image.foreground)).all()


def test_encode_and_decode_are_one_round(engine):
    latent = engine.encode(picture(75, 64))
    assert latent.shape == (1, 4, 9, 8)
    assert engine.decode(latent).size == (64, 72)
    with pytest.raises(LayerDiffusionError, match="shape"):
        engine.decode(torch.zeros(1, 3, 8, 8))


class TestSources:
    def test_a_folder_brings_its_layers_and_its_defaults(self, tmp_path):
        engine = LayerDiffusion.from_checkpoint(write_family(tmp_path), device="cpu")
        assert set(engine.host.families) == set(Family)
        assert (engine.host.steps, engine.host.guidance, engine.host.default_size) == (2, 1.5, 64)
        assert engine.host.decode_passes == 2
        assert engine.generate("an apple", seed=1).images[0].rgba.mode == "RGBA"

    def test_a_family_says_with_how_many_passes_it_is_decoded(self, tmp_path):
        engine = LayerDiffusion.from_checkpoint(write_family(tmp_path), device="cpu")
        for given, used in (({}, 2), ({"decode_passes": None}, 2), ({"decode_passes": 8}, 8)):
            assert engine.generate("an apple", seed=1, **given).settings.decode_passes == used
        latent = engine.encode(picture(64, 64))
        own, two, eight = (pixels(engine.decode(latent, **passes)) for passes in ({}, {"passes": 2}, {"passes": 8}))
        assert (own == two).all()
        assert (own != eight).any()

    @pytest.mark.parametrize(("values", "told"), [
        ({"steps": "many"}, "steps must be"),
        ({"steps": 0}, "steps must be"),
        ({"guidance": None}, "guidance must be"),
        ({"guidance_start": 1.5}, "guidance_start must be"),
        ({"decode_passes": 3}, "decode_passes must be"),
        ({"sizes": [64, 64]}, "a size must be a list"),
        ({"sizes": [[64]]}, "width and height"),
        ({"sizes": [["wide", 64]]}, "width must be"),
        ({"words": 3}, "words must be a list"),
        ({"words": [None]}, "a word must be text"),
        ([1], "JSON object"),
    ])  # fmt: skip
    def test_what_a_card_says_is_read_as_everything_else(self, tmp_path, values, told):
        card = write_family(tmp_path) / "layerdiffusion.json"
        card.write_text(json.dumps(values))
        with pytest.raises(ModelError, match=f"layerdiffusion.json.*{told}"):
            LayerDiffusion.from_checkpoint(tmp_path, device="cpu")

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"steps": ' + "9" * 5000 + "}"])
    def test_a_card_that_is_no_json_is_said(self, tmp_path, text):
        (write_family(tmp_path) / "layerdiffusion.json").write_text(text)
        with pytest.raises(ModelError, match=r"layerdiffusion\.json.*(read|used)"):
            LayerDiffusion.from_checkpoint(tmp_path, device="cpu")

    def test_a_family_of_one_size_refuses_others_and_fits_init_pictures(self, tmp_path):
        card = write_family(tmp_path) / "layerdiffusion.json"
        card.write_text(json.dumps({"steps": 1, "guidance": 1, "sizes": [[64, 64], [64, 96]]}))
        engine = LayerDiffusion.from_checkpoint(tmp_path, device="cpu")
        with pytest.raises(SettingsError, match="64x64 or 64x96 only, not of 72x64"):
            engine.generate("an apple", size=(72, 64))
        assert engine.generate("an apple", seed=1, size=(64, 96)).images[0].rgba.size == (64, 96)
        assert engine.generate("an apple", seed=1, init_image=picture(300, 200), strength=1.0).images[0].rgba.size == (
            64,
            96,
        )
        assert engine.encode(picture(80, 72)).shape == (1, 4, 10, 9)

    def test_without_a_bundled_family_it_says_that_weights_are_random(self, monkeypatch):
        monkeypatch.setattr("lib_layerdiffusion.hosts.diffusers.sources.bundled_family", lambda: None)
        engine = lib_layerdiffusion.LayerDiffusion.from_checkpoint(device="cpu")
        assert engine.host.source == RANDOM_MODEL
        assert "random" in engine.generate("an apple", seed=1).images[0].infotext

    def test_a_model_of_an_unknown_family_is_refused(self, tmp_path):
        tiny_pipeline().save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="width 32"):
            LayerDiffusion.from_checkpoint(tmp_path, device="cpu")

    def test_a_damaged_layer_file_is_refused_before_sampling(self, layers, tmp_path):
        content = (layers / "layer_xl_transparent_attn.safetensors").read_bytes()
        (tmp_path / "layer_xl_transparent_attn.safetensors").write_bytes(content[:-9])
        with pytest.raises(WeightsError):
            new_engine(tmp_path).generate("an apple")

    def test_a_file_of_another_method_is_refused(self, layers, tmp_path):
        from safetensors.torch import load_file

        other = load_file(layers / "layer_xl_fg2ble.safetensors")
        save_file(other, tmp_path / "layer_xl_transparent_attn.safetensors")
        with pytest.raises(WeightsError, match="not the file of"):
            new_engine(tmp_path).generate("an apple")

    @pytest.mark.parametrize(
        ("arguments", "kind"),
        [({"dtype": "int8"}, SettingsError), ({"device": "toaster"}, SettingsError),
         ({"offload": "all"}, SettingsError), ({"offload": "model", "device": "cpu"}, HostError)],
    )  # fmt: skip
    def test_where_it_cannot_run(self, arguments, kind):
        with pytest.raises(kind):
            open_source("x", **arguments)


@pytest.fixture(scope="module")
def result(engine):
    return engine.generate("an apple", method="fg-to-blend", foreground=FG, batch=2, seed=9)


class TestResult:
    @pytest.mark.parametrize("copied", [lambda item: pickle.loads(pickle.dumps(item)), copy.copy, copy.deepcopy])
    def test_it_travels_whole(self, result, copied):
        other = copied(result)
        assert other.settings == result.settings
        assert (other.seed, other.timings, other.source) == (result.seed, result.timings, result.source)
        assert other.settings.method.label in METHODS
        for one, two in zip(other.images, result.images, strict=True):
            assert (pixels(one.blended) == pixels(two.blended)).all()
            assert (one.infotext, one.seed) == (two.infotext, two.seed)
        assert len(other.layer_set()) == 2
        with pytest.raises(TypeError):
            other.settings.pictures[Layer.FOREGROUND] = None

    def test_its_repr_is_a_line_that_says_what_it_is(self, result):
        text = repr(result)
        assert "\n" not in text
        assert len(text) < 300
        assert all(part in text for part in ("From Foreground to Blending", "64x64", "seed 9", "seed 10"))

    def test_a_notebook_shows_it(self, result, engine):
        for item in (result, result.images[0]):
            shown = Image.open(io.BytesIO(item._repr_png_()))
            assert shown.format == "PNG"
        both = pixels(Image.open(io.BytesIO(result._repr_png_())))
        assert (both[:, 64:] == pixels(result.images[1].rgba)).all()
        layered = engine.generate("x", method="everything", seed=1)
        assert Image.open(io.BytesIO(layered._repr_png_())).size == (192, 64)


def test_help_lists_every_choice_with_what_it_does():
    text = inspect.getdoc(LayerDiffusion.generate)
    listed = text.split("Choices:\n")[1]
    for name in Choices.__annotations__:
        assert re.search(rf"^    {name}: \S.{{10,}}", listed, re.MULTILINE), name
        assert name in inspect.signature(LayerDiffusion.generate).parameters
    assert all(line.strip() == "" or len(line) <= 120 for line in text.splitlines())


def test_the_package_says_its_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", lib_layerdiffusion.__version__)


def test_a_small_model_says_which_words_it_does_not_know_and_draws_all_the_same(layers):
    card = replace(new_card(), subjects=("red apple", "ice cream"), words=("sunset",))
    small = LayerDiffusion(EngineHost(tiny_pipeline(), card), WeightStore([layers], may_fetch=False))
    known = small.generate("an Ice cream, red sunset", seed=1)
    assert known.notes == ()
    result = small.generate("a blue apple", seed=1, layer_prompts={"foreground": "Zebra"})
    assert result.notes == ('This model does not know "blue", "zebra": it draws what the other words say.',)
    assert small.unknown_words("sunset", "2 apples, x2") == ("apples", "x")


def test_a_model_of_many_words_says_nothing_of_them(engine):
    assert engine.unknown_words("a zebra") == ()


def test_a_latent_is_decoded_with_what_another_program_made_of_it(engine):
    latent = engine.encode(picture(72, 64))
    own = engine.host.decode_latents(latent * engine.host.scaling)
    seen = Image.fromarray((own[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())
    decoder = engine.host.placed(engine.store.decoder(engine.host.family()))
    rounded = torch.from_numpy(pixels(seen)).permute(2, 0, 1)[None].float() / 255
    wanted = rgba_arrays(LatentTransparency(decoder=decoder).decode(rounded, latent.float()))[0]
    assert (pixels(engine.decode(latent, picture=seen)) == wanted).all()
    with pytest.raises(LayerDiffusionError, match="decoded from this latent"):
        engine.decode(latent, picture=seen.resize((80, 72)))


def test_a_foreground_without_alpha_is_told_of(engine):
    def told(foreground):
        notes = engine.generate("a", method="fg-to-blend", foreground=foreground).notes
        return any("opaque throughout" in note for note in notes)

    solid = picture(64, 64)
    assert not told(solid)
    solid.putalpha(255)
    assert told(solid)
