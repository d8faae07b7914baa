"""In which precision the transparency decoder of an engine computes."""

from __future__ import annotations

import pytest
import torch

from lib_layerdiffusion.hosts.diffusers.engine_host import EngineHost
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder, precision
from tests.tiny_family import new_card, shared_pipeline


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


def test_other_devices_keep_their_precision(monkeypatch):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    assert precision.decoder_precision(torch.device("cuda"), torch.float16) is torch.float16
