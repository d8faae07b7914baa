"""Nothing survives a run: the next plain picture is the same, other models and LoRAs work as before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lib_layerdiffusion.networks import attention_sharing
from lib_layerdiffusion.weights import reading
from tests.hosts.forge.hosts import LORA

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
XL_TRANSPARENT = "(SDXL) Only Generate Transparent Image (Attention Injection)"
XL_BG_TO_BLEND = "(SDXL) From Background to Blending"
XL_BG_BLEND_TO_FG = "(SDXL) From Background and Blending to Foreground"


@pytest.fixture
def unchanged(forge):
    """Fails where a plain picture after the test differs from one before it."""
    before = forge.run(None)
    yield
    forge.use("sd15")
    assert forge.run(None).same_as(before)


@pytest.mark.usefixtures("unchanged")
def test_a_lora_before_a_method_without_it(forge, ask):
    """Fault 1: the model was dead afterwards."""
    assert forge.run(None, prompt=f"an apple {LORA}").error is None
    assert forge.run(ask(TRANSPARENT)).error is None


@pytest.mark.usefixtures("unchanged")
def test_a_method_together_with_a_lora(forge, ask):
    """Fault 2: "Wrong LoRA Key", and plain pictures stayed patched."""
    both = forge.run(ask(TRANSPARENT), prompt=f"an apple {LORA}")
    assert both.error is None
    assert not both.same_as(forge.run(ask(TRANSPARENT)))


@pytest.mark.usefixtures("unchanged")
def test_a_lora_after_a_method(forge, ask):
    """Fault 3: it was ignored without a word."""
    before = forge.run(None, prompt=f"an apple {LORA}")
    assert forge.run(ask(TRANSPARENT)).error is None
    assert forge.run(None, prompt=f"an apple {LORA}").same_as(before)


@pytest.mark.usefixtures("unchanged")
def test_each_family_keeps_its_own_decoder(forge, ask):
    """Fault 4: whichever was loaded first served both."""
    small = forge.run(ask(TRANSPARENT))
    forge.use("sdxl")
    large = forge.run(ask(XL_TRANSPARENT))
    forge.use("sd15")
    assert forge.run(ask(TRANSPARENT)).same_as(small)
    forge.use("sdxl")
    assert forge.run(ask(XL_TRANSPARENT)).same_as(large)


@pytest.mark.usefixtures("unchanged")
def test_a_failed_img2img_leaves_the_vae_alone(forge, ask, rgba, rgb):
    """Fault 5: the VAE stayed regulated and every plain img2img failed."""
    plain = {"img2img": True, "init_images": [rgb(forge.side)], "denoising_strength": 0.5}
    before = forge.run(None, **plain)
    failed = forge.run(ask(TRANSPARENT), img2img=True, init_images=[rgba(forge.side), rgb(forge.side)], batch_size=1)
    assert "bad number of images" in failed.message
    assert forge.run(None, **plain).same_as(before)


@pytest.mark.usefixtures("unchanged")
def test_what_is_found_while_sampling_is_answered_as_well(fake, ask):
    refused = fake.run(ask(TRANSPARENT), guidance="tome")
    assert vars(refused.error)["status_code"] == 422
    assert vars(refused.error)["detail"] == refused.message


def test_what_changes_the_tokens_of_attention_is_refused(forge, ask):
    """Fault 22, before a step is done."""
    result = forge.run(ask(TRANSPARENT), guidance="tome")
    assert "cannot be used together" in result.message
    assert result.message.count(". ") == 0


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("kind", ["sag", "pag"])
def test_what_replaces_attention_works_together(forge, ask, kind):
    """Fault 22: the units attend through it."""
    result = forge.run(ask(TOGETHER), batch_size=3, guidance=kind)
    assert result.error is None
    assert not result.same_as(forge.run(ask(TOGETHER), batch_size=3))


@pytest.mark.parametrize("method", [TRANSPARENT, TOGETHER])
def test_an_attention_that_is_replaced_by_itself_changes_nothing(fake, ask, method):
    """IP-Adapter of weight 0: the block bypasses its layer, and nothing of the method may get lost."""
    args = ask(method, preview=False)
    plain = fake.run(args, batch_size=3)
    replaced = fake.run(args, batch_size=3, guidance="itself")
    for one, other in zip(plain.images, replaced.images, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert not fake.run(args, batch_size=3, guidance="adapter").same_as(plain)


def test_guidance_and_offsets_work_together(forge, ask):
    """Fault 22: offsets leave attention whole, so nothing stands against it."""
    forge.use("sdxl")
    for kind in ("sag", "pag", "tome"):
        assert forge.run(ask(XL_TRANSPARENT), guidance=kind).error is None


@pytest.mark.usefixtures("unchanged")
def test_an_interrupted_run(forge, ask):
    assert forge.run(ask(TRANSPARENT), steps=6, interrupt_at=1).error is None


def test_an_error_while_sampling_leaves_the_model_plain(fake, ask, monkeypatch):
    from fakehost import sampling
    from modules import sd_samplers

    before = fake.run(None)
    whole = sampling.sampling_function

    def breaks(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sd_samplers, "sampling_function", breaks)
    assert "out of memory" in fake.run(ask(TRANSPARENT)).message
    monkeypatch.setattr(sd_samplers, "sampling_function", whole)
    assert fake.run(None).same_as(before)


def test_offsets_of_one_method_after_another(forge, ask, rgba):
    """A widened input layer that is still merged in must not hide the model's own shape."""
    forge.use("sdxl")
    plain = forge.run(None)
    pictures = {"background": np.asarray(rgba()), "blended": np.asarray(rgba(seed=3))}
    assert forge.run(ask(XL_BG_BLEND_TO_FG, **pictures)).error is None
    assert forge.run(ask(XL_BG_TO_BLEND, **pictures)).error is None
    assert forge.run(None).same_as(plain)


def test_the_same_settings_merge_nothing_again(fake, ask):
    fake.use("sdxl")
    assert fake.run(ask(XL_TRANSPARENT)).error is None
    from modules import shared

    merger = shared.sd_model.forge_objects.unet.model
    merger = getattr(merger, "merger", merger)
    if not hasattr(merger, "merges"):
        pytest.skip("the host merges whenever it loads another patcher")
    merges = merger.merges
    assert fake.run(ask(XL_TRANSPARENT), seed=5).error is None
    assert merger.merges == merges


@pytest.mark.parametrize(("family", "label"), [("sdxl", XL_TRANSPARENT), ("sd15", TRANSPARENT)])
def test_the_same_settings_read_nothing_again(fake, ask, monkeypatch, family, label):
    fake.use(family)
    assert fake.run(ask(label)).error is None
    opened = []

    def spied(name, open_file):
        def spy(*arguments, **more):
            opened.append((name, arguments))
            return open_file(*arguments, **more)

        return spy

    for name in ("load_file", "load"):
        monkeypatch.setattr(reading, name, spied(name, getattr(reading, name)))
    assert fake.run(ask(label), seed=5).error is None
    assert opened == []


def test_a_replaced_layer_file_is_merged_anew(fake, ask):
    from safetensors.torch import load_file, save_file

    fake.use("sdxl")
    first = fake.run(ask(XL_TRANSPARENT))
    path = fake.weights / "layer_xl_transparent_attn.safetensors"
    content = path.read_bytes()
    save_file({key: 2 * value for key, value in load_file(path).items()}, path)
    try:
        assert not fake.run(ask(XL_TRANSPARENT)).same_as(first)
    finally:
        path.write_bytes(content)
    assert fake.run(ask(XL_TRANSPARENT)).same_as(first)


def test_nothing_of_the_run_stays_on_the_processing_object(fake, ask):
    p = fake._processing(ask(TRANSPARENT), False, {})
    own = {name for name in ("init", "sample", "save_samples", "get_token_merging_ratio") if name in vars(p)}
    from modules import processing

    processing.process_images(p)
    assert {name for name in ("init", "sample", "save_samples", "get_token_merging_ratio") if name in vars(p)} == own


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("words", ["", LORA])
def test_updates_are_folded_into_plain_layers_once_a_picture(fake, ask, monkeypatch, words):
    """Reference fault 8: the products were made again in every call of every layer; a merged LoRA stays merged."""
    made = []
    folded = attention_sharing._folded
    monkeypatch.setattr(attention_sharing, "_folded", lambda *given: made.append(given) or folded(*given))
    quick = fake.run(ask(TOGETHER), prompt=f"an apple {words}", batch_size=3, steps=3)
    once = len(made)
    assert quick.error is None
    assert fake.run(ask(TOGETHER), prompt=f"an apple {words}", batch_size=3, steps=6).error is None
    assert len(made) == 2 * once > 0
    monkeypatch.setattr(
        sys.modules["lib_layerdiffusion.hosts.forge.host"], "is_weight_product", lambda _layer, _rows: False
    )
    slow = fake.run(ask(TOGETHER), prompt=f"an apple {words}", batch_size=3, steps=3)
    assert len(made) == 2 * once
    assert np.abs(slow.array(0).astype(int) - quick.array(0)).mean() < 1
