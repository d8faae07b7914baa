"""In which precision our own networks in an engine compute."""

from __future__ import annotations

import pytest
import torch

from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost
from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion
from lib_layerdiffusion.hosts.diffusers.tiny import tiny_pipeline
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder, precision
from lib_layerdiffusion.networks.attention_sharing import SharingUnit
from lib_layerdiffusion.weights import WeightStore
from tests.tiny_family import new_card, shared_pipeline, write_layers

OLDER = "sampler latent (2024-08 release)"
FRAMES = [(False, {}, torch.bfloat16), (False, {"latent_scale": OLDER}, torch.float32), (True, {}, torch.float32)]


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_a_cpu_decodes_in_bfloat16_where_it_has_it_and_nothing_else_was_said(monkeypatch, has_it, exact):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: has_it)
    host = EngineHost(shared_pipeline(), new_card(), exact=exact)
    decoder = host.placed(TransparentDecoder(channels=(8, 8, 8, 8), attention_levels=1))
    assert decoder.dtype is (torch.bfloat16 if has_it and not exact else torch.float32)
    assert decoder.conv_out.weight.dtype is torch.float32
    assert next(host.placed(TransparentEncoder(widths=(4, 4, 4, 4))).parameters()).dtype is torch.float32
    assert next(host.pipeline.unet.parameters()).dtype is torch.float32


def test_pictures_of_the_older_release_are_decoded_as_exactly_as_it_did(tmp_path, monkeypatch):
    """Whatever ran before: rounding weights to bfloat16 cannot be undone."""
    host = EngineHost(tiny_pipeline(), new_card())
    engine = LayerDiffusion(host, WeightStore([write_layers(tmp_path)], may_fetch=False))

    def made(has_it: bool, **choices: str) -> bytes:
        monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: has_it)
        return engine.generate("an apple", seed=3, **choices).images[0].rgba.tobytes()

    exact, quick = made(False, latent_scale=OLDER), made(False)
    assert made(True) != quick
    assert made(True, latent_scale=OLDER) == exact


@pytest.mark.parametrize(("exact", "choices", "kind"), FRAMES)
def test_frames_see_each_other_in_bfloat16_where_nothing_else_was_said(tmp_path, monkeypatch, exact, choices, kind):
    taken, forward = set(), SharingUnit.forward

    def watched(self, hidden, attention, context, run):
        taken.add((hidden.dtype, run.across_frames))
        return forward(self, hidden, attention, context, run)

    monkeypatch.setattr(SharingUnit, "forward", watched)
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    host = EngineHost(tiny_pipeline(), new_card(), exact=exact)
    engine = LayerDiffusion(host, WeightStore([write_layers(tmp_path)], may_fetch=False))
    engine.generate("an apple", method="everything", seed=3, **choices)
    assert taken == {(torch.float32, kind)}


def test_other_devices_keep_their_precision(monkeypatch):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    for exact in (False, True):
        assert precision.faster_precision(torch.device("cuda"), torch.float16, exact=exact) is torch.float16
