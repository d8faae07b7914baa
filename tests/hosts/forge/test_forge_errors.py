"""Everything that a user can do wrong stops the run before sampling, with one sentence on page and API."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lib_layerdiffusion.errors import InputError, LayerDiffusionError
from lib_layerdiffusion.methods import METHODS

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
FG_TO_BG = "(SD1.5) From Foreground to Background (need batch size 2)"


def refused(result, *words):
    assert isinstance(result.error, LayerDiffusionError), result.error
    assert not result.reports
    for word in words:
        assert word in result.message
    assert "\n" not in result.message
    return True


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.inputs], ids=lambda m: f"{m.family}-{m.name}")
def test_a_missing_picture(forge, ask, method):
    """Fault 13: plain or half patched pictures."""
    forge.use("sd15" if method.family == "SD1.5" else "sdxl")
    assert refused(forge.run(ask(method.label), batch_size=method.frame_count), "needs", str(method.inputs[0]))


def test_a_method_of_another_family(forge, ask, rgba):
    """Fault 16."""
    result = forge.run(ask("(SDXL) From Background to Blending", background=np.asarray(rgba())))
    assert refused(result, "SDXL", "SD1.5")
    forge.use("sdxl")
    assert refused(forge.run(ask(TRANSPARENT)), "SDXL", "SD1.5")


def test_an_unsupported_checkpoint_is_named(fake, ask):
    fake.use("flux")
    assert refused(fake.run(ask(TRANSPARENT)), "Flux")


def test_unknown_values_list_the_valid_ones(forge, ask, rgba):
    assert refused(forge.run(ask("transparent please")), *METHODS)
    result = forge.run(ask(FG_TO_BG, foreground=np.asarray(rgba()), resize_mode="Stretch"), batch_size=2)
    assert refused(result, "Just Resize", "Crop and Resize", "Resize and Fill")


def test_arguments_as_the_api_sends_them(forge, ask, rgba):
    """Fault 14: nulls, fewer arguments, numbers as text, names."""
    whole = forge.run(ask(TRANSPARENT, weight=0.5))
    assert forge.run([True, TRANSPARENT, "0.5"]).same_as(whole)
    assert forge.run([True, TRANSPARENT, 0.5, *[None] * 9]).same_as(whole)
    assert forge.run([{"method": TRANSPARENT, "weight": "0.5"}]).same_as(whole)
    assert forge.run([{"method": "transparent", "weight": "0.5"}]).same_as(whole)


def test_pictures_in_every_form(forge, ask, rgba):
    """Fault 14: base64 with and without prefix, lists."""
    picture = rgba(48)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    array = np.asarray(picture)
    forms = [text, f"data:image/png;base64,{text}", array.tolist()]
    expected = forge.run(ask(FG_TO_BG, foreground=array), batch_size=2, steps=1)
    for form in forms:
        assert forge.run(ask(FG_TO_BG, foreground=form), batch_size=2, steps=1).same_as(expected)


@pytest.mark.parametrize("picture", ["no base64!", "aGVsbG8=", [[[1, 2, 3, 4]]]], ids=["text", "bytes", "1x1"])
def test_unusable_pictures(forge, ask, picture):
    assert refused(forge.run(ask(FG_TO_BG, foreground=picture), batch_size=2), "foreground")


@pytest.fixture
def broken(fake):
    """Puts another content in the place of a layer file for one test."""
    kept = {}

    def replace(name, change):
        path = fake.weights / f"{name}.safetensors"
        kept[path] = path.read_bytes()
        change(path)

    yield replace
    for path, content in kept.items():
        path.write_bytes(content)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def _pickled(path):
    path.write_bytes(b"PK\x03\x04" + b"\0" * 200)


def _with_extra_key(path):
    content = load_file(path)
    save_file({**content, "extra.weight": content[next(iter(content))].clone()}, path)


def _with_missing_key(path):
    content = load_file(path)
    content.pop(min(content))
    save_file(content, path)


def _of_another_method(path):
    path.write_bytes((path.parent / "layer_sd15_joint.safetensors").read_bytes())


@pytest.mark.parametrize("change", [_truncated, _pickled, _with_extra_key, _with_missing_key, _of_another_method])
def test_layer_files_that_are_not_right(fake, ask, broken, change):
    broken("layer_sd15_transparent_attn", change)
    before = fake.run(None)
    assert refused(fake.run(ask(TRANSPARENT)))
    assert fake.run(None).same_as(before)


@pytest.mark.parametrize("change", [_truncated, _with_extra_key, _with_missing_key])
def test_decoders_that_are_not_right_are_found_before_sampling(fake, ask, broken, change):
    from modules import shared

    broken("layer_sd15_vae_transparent_decoder", change)
    shared.state.sampling_step = -1
    assert refused(fake.run(ask(TRANSPARENT)))
    assert shared.state.sampling_step == -1


def test_a_file_that_is_nowhere(fake, ask, broken, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    broken("layer_sd15_transparent_attn", lambda path: path.unlink())
    result = fake.run(ask(TRANSPARENT))
    assert refused(
        result, "layer_sd15_transparent_attn.safetensors", str(fake.weights), "LayerDiffusion/layerdiffusion-v1"
    )


def test_an_sdxl_file_that_does_not_fit_the_model(fake, ask, broken):
    import torch

    fake.use("sdxl")
    stray = {f"diffusion_model.nowhere.weight::lora::{i}": torch.zeros(4, 4) for i in (0, 1)}
    broken("layer_xl_transparent_attn", lambda path: save_file(stray, path))
    assert refused(fake.run(ask("(SDXL) Only Generate Transparent Image (Attention Injection)")), "nowhere.weight")


def test_the_api_answers_with_the_sentence_whatever_its_middleware_does(fake, ask):
    """Older hosts' middleware makes a group of every exception that FastAPI does not answer itself."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    app = FastAPI()

    @app.middleware("http")
    async def grouping(request, call_next):
        try:
            return await call_next(request)
        except Exception as error:
            raise RuntimeError("unhandled errors in a TaskGroup") from error

    @app.post("/generate")
    def generate():
        raise fake.run(ask(FG_TO_BG)).error

    answer = TestClient(app, raise_server_exceptions=False).post("/generate")
    assert answer.status_code == 422
    assert "foreground" in answer.json()["detail"].lower()
    error = fake.run(ask(FG_TO_BG)).error
    assert isinstance(error, InputError)
    assert (type(error).__name__, str(error)) == ("InputError", answer.json()["detail"])


def test_a_bug_of_ours_stops_the_run_instead_of_giving_a_plain_picture(fake, ask, monkeypatch):
    from lib_layerdiffusion.hosts.forge.run import LayerRun

    for name in ("check", "patch_unet", "keep_samples", "keep_pixels", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(LayerRun, name, lambda *_, **__: 1 / 0)
            assert isinstance(fake.run(ask(TRANSPARENT)).error, ZeroDivisionError), name
    assert fake.run(ask(TRANSPARENT)).error is None
