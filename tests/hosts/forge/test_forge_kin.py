"""Where hosts of Forge's kin differ below the hooks: packed weights, changes that are dropped, ways of encoding."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import HostError, WeightsError
from lib_layerdiffusion.methods import METHODS

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
XL_TRANSPARENT = "(SDXL) Only Generate Transparent Image (Attention Injection)"
XL_BLENDED = "(SDXL) From Foreground to Blending"
PREFIX = "diffusion_model."


class Packed:
    """A 4-bit weight of bitsandbytes: a column of bytes, and the shape of what it stands for beside it."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.shape = torch.Size([weight.numel() // 2, 1])
        self.quant_state = SimpleNamespace(shape=weight.shape)


@pytest.fixture
def parameters(fake):
    """Parameters of the loaded UNet by name, those of linear layers packed."""
    from modules import shared

    unet = shared.sd_model.forge_objects.unet
    given = dict(unet.model.named_parameters())
    return {name: Packed(value) if value.ndim == 2 else value for name, value in given.items()}


@pytest.mark.parametrize(("family", "label"), [("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)])
def test_packed_weights_are_taken_for_what_they_stand_for(fake, parameters, family, label):
    from lib_layerdiffusion.hosts.forge import unet

    method = METHODS[label]
    weights = fake.script_class.models().layer_weights(method)
    check = unet.check_sharing if family == "sd15" else unet.check_offsets
    check(parameters, weights)
    first = next(name for name in parameters if name.endswith("attn1.to_q.weight"))
    parameters[first] = Packed(torch.zeros(6, 6))
    with pytest.raises(WeightsError, match="does not fit the loaded model"):
        check(parameters, weights)


def test_layers_need_no_width_of_their_own(fake, ask, monkeypatch):
    """Layers of quantised checkpoints have none."""
    from modules import shared

    expected = fake.run(ask(TRANSPARENT))
    for module in shared.sd_model.forge_objects.unet.model.modules():
        if isinstance(module, torch.nn.Linear):
            monkeypatch.delattr(module, "in_features")
    assert fake.run(ask(TRANSPARENT)).same_as(expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_changes_that_the_host_drops_stop_the_run(fake, ask, monkeypatch, steps):
    """Nunchaku's layers do so without a word."""
    from modules import shared

    fake.use("sdxl")
    patcher = type(shared.sd_model.forge_objects.unet)
    if not hasattr(patcher, "skips"):
        pytest.skip("this host merges or raises")
    plain = fake.run(None)
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    monkeypatch.setattr(patcher, "skips", frozenset({PREFIX + name}))
    failed = fake.run(ask(XL_TRANSPARENT, weight=0.77), steps=steps)
    assert isinstance(failed.error, HostError)
    assert name in failed.message
    assert "1 of 6 changes" in failed.message
    monkeypatch.undo()
    assert fake.run(ask(XL_TRANSPARENT, weight=0.78), steps=steps).error is None
    assert fake.run(None).same_as(plain)


def encoder_of(fake):
    from modules import shared

    return shared.sd_model.forge_objects.vae


def test_every_host_encodes_alike(fake):
    """Some draw and some take the mean when asked themselves."""
    from lib_layerdiffusion.hosts.forge import vae

    own, pixels = encoder_of(fake), torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    network = own.first_stage_model
    before = vars(network).copy()
    torch.manual_seed(5)
    latent = vae.encode(own, pixels)
    mean, log_variance = network.quant_conv(network.encoder(pixels * 2 - 1)).chunk(2, dim=1)
    torch.manual_seed(5)
    std = (0.5 * log_variance).exp()
    assert torch.equal(latent, mean + std * torch.randn(mean.shape))
    offset = torch.full_like(mean, 2.0)
    assert torch.allclose(vae.encode(own, pixels, vae.offset_by(offset)), mean + std * 2.0)
    assert vars(network) == before


def test_the_encoder_is_put_back_after_an_error(fake):
    from lib_layerdiffusion.hosts.forge import vae

    own = encoder_of(fake)
    with pytest.raises(HostError, match="in pieces"):
        vae.encode(own, torch.zeros(1, 3, 32, 48), vae.offset_by(torch.zeros(1, 4, 2, 2)))
    assert "encode" not in vars(own.first_stage_model)


def test_tiles_are_refused_for_alpha_and_for_conditions(fake, ask, rgba, monkeypatch):
    """The host's own pictures may still be encoded so."""
    own = type(encoder_of(fake))
    plain = own.encode

    def in_tiles(self, pixels):
        return self.encode_tiled(pixels)

    monkeypatch.setattr(own, "encode_tiled", plain, raising=False)
    monkeypatch.setattr(own, "encode", in_tiles)
    start = {"img2img": True, "init_images": [rgba(fake.side)], "denoising_strength": 0.5}
    fake.use("sdxl")
    conditioned = fake.run(ask(XL_BLENDED, foreground=np.asarray(rgba(fake.side))))
    fake.use("sd15")
    for failed in (conditioned, fake.run(ask(TRANSPARENT), **start)):
        assert isinstance(failed.error, HostError)
        assert "tiled VAE encoding off" in failed.message
    tiled = fake.run(None, **start)
    monkeypatch.setattr(own, "encode", plain)
    assert fake.run(None, **start).same_as(tiled)


@pytest.mark.parametrize("method", [TRANSPARENT, XL_TRANSPARENT, XL_BLENDED])
def test_layers_have_whatever_size_the_host_makes(fake, ask, rgba, monkeypatch, method):
    """Forge Neo rounds to multiples of 64 after scripts have seen the request, unless it is told otherwise."""
    from modules import processing, shared

    rounded = sys.modules["kin"].__dict__.get("multiples_of_64")
    fake.use("sd15" if method == TRANSPARENT else "sdxl")
    args, alpha = ask(method, foreground=np.asarray(rgba(40))), method != XL_BLENDED
    told = fake.run(args, width=72, height=200)
    assert told.error is None, told.message
    assert (told.images[0].mode, told.images[0].size) == ("RGBA" if alpha else "RGB", (72, 200))
    if rounded is None:
        return
    monkeypatch.setattr(shared.sd_model, "fix_dimensions", rounded, raising=False)
    assert processing.sized(72, 200) == (64, 192)
    assert fake.run(args, width=72, height=200).same_as(fake.run(args, width=64, height=192))


def test_an_opaque_and_a_clear_picture_differ_on_every_host(fake, ask):
    from PIL import Image

    size, method = (fake.side, fake.side), ask(TRANSPARENT, preview=False)
    made = [
        fake.run(method, img2img=True, init_images=[Image.new("RGBA", size, (127, 127, 127, alpha))])
        for alpha in (0, 255)
    ]
    assert not np.array_equal(made[0].array(), made[1].array())
