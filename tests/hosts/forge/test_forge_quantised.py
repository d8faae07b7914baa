"""Quantised checkpoints: both techniques work, or one sentence says before sampling what to load instead."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_layerdiffusion.errors import HostError

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
XL_TRANSPARENT = "(SDXL) Only Generate Transparent Image (Attention Injection)"
ADDS = ("forge", "neo")
"""Hosts that can add changes while a layer computes."""


def gguf(name):
    return {"gguf_cls": type(name, (), {"qtype": SimpleNamespace(name=name)})}


def bnb(kind):
    return {"bnb_quantized": True, "quant_type": kind}


@pytest.fixture
def marked(fake, request):
    """Marks the attention layers' weights as quantised until the test is over; counts calls of the UNet."""
    from fakehost import memory_management
    from modules import shared

    calls, unmark = [], []

    def mark(marks):
        memory_management.unload_all_models()  # what an earlier run merged is no weight of the checkpoint's
        model = shared.sd_model.forge_objects.unet.model
        for name, weight in model.named_parameters():
            if "attn" in name and weight.ndim == 2:
                vars(weight).update(marks)
                unmark.append((weight, marks))
        handle = model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
        request.addfinalizer(handle.remove)
        return calls

    yield mark
    for weight, marks in unmark:
        for name in marks:
            vars(weight).pop(name, None)


@pytest.fixture
def name(request):
    return request.config.getoption("--fake-host")


@pytest.mark.parametrize(
    ("marks", "called"),
    [
        (bnb("nf4"), "bitsandbytes nf4"),
        (bnb("fp4"), "bitsandbytes fp4"),
        (gguf("Q4_K"), "GGUF Q4_K"),
        ({"_layout_cls": "TensorCoreNVFP4Layout"}, "NVFP4"),
        ({"_layout_cls": "TensorCoreFP8E4M3Layout"}, "FP8E4M3"),
        ({"_layout_cls": "TensorWiseINT8Layout"}, "INT8"),
        ({"dtype": torch.float8_e4m3fn}, "fp8 e4m3fn"),
        ({"dtype": torch.float8_e5m2}, "fp8 e5m2"),
        ({"dtype": torch.int8}, "int8"),
        ({"dtype": torch.float16}, ""),
        ({"gguf_cls": None, "dtype": torch.float32}, ""),
    ],
)
def test_quantisations_have_their_names(marks, called):
    from lib_layerdiffusion.hosts.forge.quantised import quantisation

    assert quantisation(SimpleNamespace(**marks)) == called


@pytest.mark.parametrize("marks", [bnb("nf4"), gguf("Q4_K"), {"_layout_cls": "TensorCoreNVFP4Layout"}])
def test_attention_sharing_needs_no_plain_weights(fake, ask, marked, marks):
    expected = fake.run(ask(TRANSPARENT))
    calls = marked(marks)
    assert fake.run(ask(TRANSPARENT)).same_as(expected)
    assert calls


@pytest.mark.parametrize(
    ("marks", "called"), [(gguf("Q4_K"), "GGUF Q4_K"), ({"_layout_cls": "TensorCoreNVFP4Layout"}, "NVFP4")]
)
def test_weight_offsets_stay_beside_packed_weights_or_are_refused(fake, ask, marked, name, marks, called):
    fake.use("sdxl")
    plain, expected = fake.run(None), fake.run(ask(XL_TRANSPARENT, weight=0.7))
    calls = marked(marks)
    made = fake.run(ask(XL_TRANSPARENT, weight=0.7))
    if name in ADDS:
        assert made.same_as(expected)
        assert fake.run(None).same_as(plain)
    else:
        assert isinstance(made.error, HostError)
        assert called in made.message
        assert "load a checkpoint in fp16" in made.message
        assert not calls


def test_weights_that_only_cuda_unpacks_are_refused_before_sampling(fake, ask, marked):
    fake.use("sdxl")
    calls = marked(bnb("nf4"))
    refused = fake.run(ask(XL_TRANSPARENT))
    assert isinstance(refused.error, HostError)
    assert "quantised (bitsandbytes nf4)" in refused.message
    assert "load a checkpoint in fp16" in refused.message
    assert not calls
    assert fake.run(None).error is None


def test_weights_that_only_cuda_unpacks_are_changed_there(fake, ask, marked, name, monkeypatch):
    from lib_layerdiffusion.hosts.forge.backends.common import CommonBackend

    fake.use("sdxl")
    marked(bnb("nf4"))
    monkeypatch.setattr(CommonBackend, "torch_device", lambda _: torch.device("cuda"))
    backend = fake.script_class.models().backend
    weight = next(fake_weight for fake_weight in _weights() if hasattr(fake_weight, "bnb_quantized"))
    assert backend.changes_quantised(_unet(), weight)


@pytest.mark.parametrize(("family", "method"), [("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)])
def test_layers_without_weights_are_refused_before_sampling(fake, ask, monkeypatch, family, method):
    """Nunchaku's have `qweight` and `wscales`; no patch of a weight reaches them."""
    from lib_layerdiffusion.hosts.forge.backends.common import CommonBackend

    fake.use(family)
    own = CommonBackend.parameters

    def parameters(backend, unet):
        found = own(backend, unet)
        packed = {f"{name.removesuffix('weight')}qweight": value for name, value in found.items() if ".attn" in name}
        scales = {f"{name.removesuffix('weight')}wscales": value for name, value in found.items() if ".attn" in name}
        return {name: value for name, value in found.items() if ".attn" not in name} | packed | scales

    monkeypatch.setattr(CommonBackend, "parameters", parameters)
    refused = fake.run(ask(method))
    assert isinstance(refused.error, HostError)
    assert "qweight, wscales in the place of weights, as Nunchaku has it" in refused.message
    monkeypatch.undo()
    assert fake.run(ask(method)).error is None


def _unet():
    from modules import shared

    return shared.sd_model.forge_objects.unet


def _weights():
    return list(_unet().model.parameters())
