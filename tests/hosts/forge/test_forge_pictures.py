"""What comes out of a run in Forge: layers with alpha, for every way of generating."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageOps

from lib_layerdiffusion.images.arithmetic import checkerboard, preview
from lib_layerdiffusion.images.edges import clean_edges
from lib_layerdiffusion.images.opacity import PLAIN_BACKGROUND
from lib_layerdiffusion.methods import METHODS, Family, Technique

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
FG_TO_BG = "(SD1.5) From Foreground to Background (need batch size 2)"
BG_TO_FG = "(SD1.5) From Background to Foreground (need batch size 2)"
XL_TRANSPARENT = "(SDXL) Only Generate Transparent Image (Attention Injection)"
XL_CONDITIONED = "(SDXL) From Background and Blending to Foreground"


def modes(result):
    assert result.error is None, result.error
    return [image.mode for image in result.images]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: f"{method.family}-{method.name}")
def test_every_method_gives_its_layers(forge, ask, rgba, method):
    forge.use("sd15" if method.family is Family.SD15 else "sdxl")
    pictures = {layer.value: np.asarray(rgba(96, seed)) for seed, layer in enumerate(method.inputs)}
    result = forge.run(ask(method.label, **pictures), batch_size=method.frame_count)
    frames = ["RGBA" if method.is_rgba(i) else "RGB" for i in range(method.frame_count)]
    assert modes(result) == frames + ["RGB"] * frames.count("RGBA")
    plain = forge.run(None, batch_size=method.frame_count)
    assert not np.array_equal(result.array()[..., :3], plain.array())
    assert not result.reports


def test_pictures_come_in_batch_order_before_previews(forge, ask):
    result = forge.run(ask(TRANSPARENT), batch_size=2, n_iter=2, steps=1)
    assert modes(result) == ["RGBA"] * 4 + ["RGB"] * 4
    for index in range(4):
        # One is made of the other before either is rounded.
        shown = preview(result.array(index)).astype(int)
        assert np.abs(shown - result.array(4 + index)).max() <= 1
    alone = forge.run(ask(TRANSPARENT, preview=False), seed=4, steps=1)
    assert modes(alone) == ["RGBA"]
    assert np.abs(alone.array().astype(int) - result.array(3).astype(int)).max() <= 1


def test_the_picture_before_decoding_is_the_last_one(forge, ask):
    result = forge.run(ask(TRANSPARENT, output_origin=True))
    assert modes(result) == ["RGBA", "RGB", "RGB"]
    assert not np.array_equal(result.array(2), result.array(1))


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_hires_fix_is_transparent(forge, ask, upscaler):
    """Fault 6: after a second pass the host hands on pixels in place of latents."""
    result = forge.run(ask(TOGETHER), batch_size=3, enable_hr=True, hr_upscaler=upscaler)
    assert modes(result) == ["RGBA", "RGB", "RGB", "RGB"]
    assert result.images[0].size == result.images[1].size
    assert result.images[0].width > forge.side


def test_condition_pictures_follow_the_size_of_the_second_pass(forge, ask, rgba):
    forge.use("sdxl")
    pictures = {"background": np.asarray(rgba()), "blended": np.asarray(rgba(seed=3))}
    result = forge.run(ask(XL_CONDITIONED, **pictures), enable_hr=True, hr_upscaler="Latent")
    assert modes(result) == ["RGBA", "RGB"]


def test_copies_of_one_request_are_decoded_by_themselves(forge, ask):
    """Fault 7: cells of an X/Y/Z plot shared the first cell's latents."""
    first, second = forge.cells(ask(TRANSPARENT, preview=False), [1, 2])
    assert modes(first) == modes(second) == ["RGBA"]
    assert not np.array_equal(first.array(), second.array())
    alone = forge.run(ask(TRANSPARENT, preview=False), seed=2)
    assert second.same_as(alone)


def test_loopback_decodes_each_round(forge, ask, rgba):
    """Fault 7: one object is processed again and again."""
    first, second = forge.loop(
        ask(TRANSPARENT, preview=False), 2, init_images=[rgba(forge.side)], denoising_strength=0.5
    )
    assert modes(first) == modes(second) == ["RGBA"]
    assert not np.array_equal(first.array(), second.array())


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 136), (72, 104)])
def test_any_size(forge, ask, width, height):
    """Fault 8: sizes that are no multiple of 64."""
    result = forge.run(ask(TRANSPARENT), width=width, height=height, steps=1)
    assert result.images[0].size == (width, height)
    assert modes(result) == ["RGBA", "RGB"]


@pytest.mark.parametrize(("method", "given", "made"), [(FG_TO_BG, 1, 2), (TOGETHER, 1, 3), (TOGETHER, 4, 6)])
def test_batches_are_completed_to_whole_pictures(forge, ask, rgba, method, given, made):
    """Faults 11 and 20: a batch that is no multiple of the frames."""
    arguments = ask(method, foreground=np.asarray(rgba(80)), preview=False)
    result = forge.run(arguments, batch_size=given, steps=1)
    assert len(result.images) == made
    assert result.same_as(forge.run(arguments, batch_size=made, steps=1))


def test_weight_scales_both_families(forge, ask):
    """Fault 12: weight was ignored for SD1.5. Fault 19: 0 with a condition was an error for SDXL."""
    for family, method in (("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)):
        forge.use(family)
        plain, full, half, none = (
            result.array(-1)
            for result in (
                forge.run(None),
                *(forge.run(ask(method, weight=w, output_origin=True)) for w in (1.0, 0.5, 0.0)),
            )
        )
        assert np.array_equal(none, plain)
        assert not np.array_equal(half, plain)
        assert not np.array_equal(half, full)


def test_weight_zero_with_condition_pictures_is_plain(forge, ask, rgba):
    """Fault 19."""
    forge.use("sdxl")
    pictures = {"background": np.asarray(rgba()), "blended": np.asarray(rgba(seed=3))}
    result = forge.run(ask(XL_CONDITIONED, weight=0, output_origin=True, preview=False, **pictures))
    assert np.array_equal(result.array(1), forge.run(None).array())


def test_sdxl_conditions_reach_every_item_of_a_batch(forge, ask, rgba):
    """Fault 18."""
    forge.use("sdxl")
    pictures = {"background": np.asarray(rgba()), "blended": np.asarray(rgba(seed=3))}
    both = forge.run(ask(XL_CONDITIONED, **pictures), batch_size=2)
    assert modes(both) == ["RGBA", "RGBA", "RGB", "RGB"]
    other = forge.run(
        ask(XL_CONDITIONED, background=np.asarray(rgba()), blended=np.asarray(rgba(seed=5))), batch_size=2
    )
    for index in range(2):
        assert not np.array_equal(both.array(index), other.array(index))


def test_a_prompt_for_a_layer_changes_sdxl_too(forge, ask):
    """Fault 15."""
    forge.use("sdxl")
    result = forge.run(ask(XL_TRANSPARENT, foreground_prompt="glass"))
    assert modes(result) == ["RGBA", "RGB"]
    assert not result.same_as(forge.run(ask(XL_TRANSPARENT)))


@pytest.mark.parametrize("method", [TRANSPARENT, TOGETHER])
def test_the_prompt_aid_is_a_prompt_of_the_transparent_layers(forge, ask, method):
    aided = forge.run(ask(method, prompt_aid=True, foreground_prompt="glass", preview=False), batch_size=3)
    written = f"glass, {PLAIN_BACKGROUND}"
    assert aided.same_as(forge.run(ask(method, foreground_prompt=written, preview=False), batch_size=3))
    assert not aided.same_as(forge.run(ask(method, foreground_prompt="glass", preview=False), batch_size=3))
    assert "LayerDiffusion plain background: True" in aided.infotext
    assert PLAIN_BACKGROUND not in aided.infotext


def test_edges_are_cleaned_on_request(forge, ask):
    plain = forge.run(ask(TRANSPARENT, preview=False))
    cleaned = forge.run(ask(TRANSPARENT, edge_cleanup=0.8, alpha_low=0.3, alpha_high=0.7, preview=False))
    assert np.array_equal(cleaned.array(), clean_edges(plain.array(), strength=0.8, black_point=0.3, white_point=0.7))
    assert not cleaned.same_as(plain)


@pytest.mark.parametrize("longer", ["prompt", "negative_prompt", "background_prompt"])
def test_prompts_of_different_lengths(forge, ask, longer):
    """Fault 21: numbers of 75-token chunks differ."""
    words = "a very detailed apple " * 25
    body = {longer: words} if "background" not in longer else {}
    layers = {"foreground_prompt": "apple", "background_prompt": words if not body else "table"}
    result = forge.run(ask(TOGETHER, **layers), batch_size=3, steps=1, **body)
    assert modes(result) == ["RGBA", "RGB", "RGB", "RGB"]


def test_a_layers_prompt_reaches_its_own_frame_only(fake, ask):
    """Without attention across frames nothing of one frame's prompt may be seen in another."""
    without = fake.run(ask(TOGETHER, preview=False), batch_size=3)
    with_prompt = fake.run(ask(TOGETHER, preview=False, background_prompt="table"), batch_size=3)
    difference = [np.abs(without.array(i).astype(int) - with_prompt.array(i).astype(int)).mean() for i in range(3)]
    assert difference[1] > difference[0]
    assert difference[1] > difference[2]


@pytest.mark.parametrize("body", [{"prompt": "an apple AND a table :0.7"}, {"cfg_scale": 1}, {"n_iter": 2}])
def test_other_ways_of_sampling(forge, ask, body):
    result = forge.run(ask(TOGETHER, foreground_prompt="glass", preview=False), batch_size=3, steps=1, **body)
    assert modes(result) == ["RGBA", "RGB", "RGB"] * body.get("n_iter", 1)


def test_an_interrupted_run_is_decoded(forge, ask):
    result = forge.run(ask(TRANSPARENT), steps=6, interrupt_at=2)
    assert modes(result) == ["RGBA", "RGB"]


def test_stop_at(forge, ask):
    """0 is the plain picture, 1 the whole method, and in between the untouched model finishes."""
    for family, method in (("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)):
        forge.use(family)
        plain = forge.run(None, steps=4).array()
        made = {
            share: forge.run(ask(method, stop_at=share, output_origin=True), steps=4).array(2)
            for share in (0.0, 0.5, 1.0)
        }
        assert np.array_equal(made[0.0], plain)
        assert not np.array_equal(made[0.5], plain)
        assert not np.array_equal(made[0.5], made[1.0])


def test_stop_at_goes_on_without_condition_latents(forge, ask, rgba):
    forge.use("sdxl")
    method = next(m for m in METHODS.values() if m.technique is Technique.WEIGHT_OFFSETS and len(m.inputs) == 1)
    pictures = {layer.value: np.asarray(rgba()) for layer in method.inputs}
    result = forge.run(ask(method.label, stop_at=0.5, **pictures), steps=4)
    assert modes(result) == ["RGB"]


@pytest.fixture
def decoder_input(fake, monkeypatch):
    """What the transparency decoder is given: pixels and latents, one of each a picture."""
    from lib_layerdiffusion.hosts.forge.models import ForgeModels

    seen, decode = [], ForgeModels.decode

    def watch(self, family, pixels, latent, passes, **named):
        seen.append((pixels, latent, passes))
        return decode(self, family, pixels, latent, passes, **named)

    monkeypatch.setattr(ForgeModels, "decode", watch)
    return seen


def test_the_decoder_reads_the_vae_latent_and_unrounded_pixels(fake, ask, decoder_input):
    from modules import shared

    fake.run(ask(TRANSPARENT, decode_passes=2))
    fake.run(ask(TRANSPARENT, latent_scale="sampler latent (2024-08 release)"))
    (pixels, latent, passes), (rounded, sampler_latent, _) = decoder_input
    vae = shared.sd_model.forge_objects.vae.first_stage_model
    assert passes == 2
    assert np.allclose(latent, vae.scale_out(sampler_latent))
    levels = pixels.double() * 255
    assert (levels - levels.round()).abs().max() > 0.1
    assert np.allclose(rounded * 255, levels.floor(), atol=1e-4)


def test_pictures_of_the_older_release_are_decoded_as_exactly_as_it_did(fake, ask, monkeypatch):
    """Whatever ran before: rounding weights to bfloat16 cannot be undone."""
    from lib_layerdiffusion.networks import precision

    older = ask(TRANSPARENT, latent_scale="sampler latent (2024-08 release)")
    exact, quick = fake.run(older), fake.run(ask(TRANSPARENT))
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    assert not fake.run(ask(TRANSPARENT)).same_as(quick)
    assert fake.run(older).same_as(exact)


def test_frames_see_each_other_in_bfloat16_where_the_cpu_has_it_and_not_for_the_older_release(fake, ask, monkeypatch):
    from lib_layerdiffusion.networks import precision
    from lib_layerdiffusion.networks.attention_sharing import SharingUnit

    taken, forward = set(), SharingUnit.forward

    def watched(self, hidden, attention, context, run):
        taken.add((hidden.dtype, run.across_frames))
        return forward(self, hidden, attention, context, run)

    monkeypatch.setattr(SharingUnit, "forward", watched)
    for has_it, choices, expected in (
        (False, {}, torch.float32),
        (True, {}, torch.bfloat16),
        (True, {"latent_scale": "sampler latent (2024-08 release)"}, torch.float32),
    ):
        monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda has_it=has_it: has_it)
        fake.run(ask(TOGETHER, decode_passes=1, **choices), batch_size=3)
        assert taken == {(torch.float32, expected)}
        taken.clear()


def test_previews_are_made_of_what_was_decoded(fake, ask, monkeypatch):
    """Compositing the rounded layer instead would round twice, which is off by up to two levels of the exact value."""
    from lib_layerdiffusion.hosts.forge.models import ForgeModels

    decoded, decode = [], ForgeModels.decode
    monkeypatch.setattr(
        ForgeModels, "decode", lambda *args, **named: decoded.append(decode(*args, **named)) or decoded[-1]
    )
    result = fake.run(ask(TRANSPARENT))
    exact = decoded[0][0].permute(1, 2, 0).double().numpy()
    colour, alpha = exact[..., :3], exact[..., 3:]
    shown = 255 * (colour * alpha + checkerboard(*alpha.shape[:2]) * (1 - alpha))
    assert np.abs(result.array(1) - shown).max() <= 0.5 + 1e-3


def test_a_picture_that_was_changed_after_the_vae_is_decoded_as_changed(fake, ask, decoder_input):
    """Face restoration and colour correction work on the 8-bit picture."""
    from tests.hosts.forge.third_parties import Postprocessing

    result = fake.run(ask(TRANSPARENT, output_origin=True))
    fake.run(ask(TRANSPARENT), others=[Postprocessing(ImageOps.invert)])
    _, given = decoder_input
    assert np.allclose(given[0][0].permute(1, 2, 0) * 255, 255 - result.array(2), atol=1e-4)


def test_settings_are_written_to_infotext(forge, ask):
    result = forge.run(ask(TRANSPARENT, weight=0.5))
    assert f"LayerDiffusion method: {TRANSPARENT}" in result.infotext
    assert "LayerDiffusion weight: 0.5" in result.infotext
    assert "LayerDiffusion" not in forge.run(None).infotext
