"""Rows of docs/alpha.md about other networks beside the method: ControlNet, IP-Adapter, Fooocus' inpaint patch.

Their files have the published keys and shapes, and random weights.

pytest tests/hosts/forge/test_forge_matrix_control.py --forge-root FORGE --alpha-matrix FILE
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import LayerDiffusionError
from tests.hosts.forge.hosts import encoded
from tests.hosts.forge.matrix_table import FRAMES, METHODS_OF
from tests.hosts.forge.test_forge_init_pictures import square
from tests.hosts.forge.test_forge_matrix import modes


def unit(model, image, **values):
    given = {"enabled": True, "module": "None", "model": model, "image": encoded(image), "weight": 1.0}
    return ("controlnet", [{**given, "save_detected_map": False, **values}])


@pytest.mark.parametrize("technique", METHODS_OF)
def test_controlnet(real, ask, row, rgb, method_of, technique):
    args, size = ask(method_of(technique), preview=False, decode_passes=1), 3 if technique == FRAMES else 1
    model, plain = real.control_model("control"), real.run(None)
    without = real.run(args, batch_size=size)
    controlled = real.run(args, batch_size=size, also=unit(model, rgb(real.side)))
    assert controlled.reports == []
    assert modes(controlled) == modes(without) == ["RGBA", *["RGB"] * (size - 1)]
    assert controlled.array()[..., 3].std() > 0
    assert not any(np.array_equal(controlled.array(i), without.array(i)) for i in range(size))
    assert real.run(None).same_as(plain)
    row("ControlNet", technique, "the layers, the first with alpha; plain pictures afterwards as before")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_the_inpaint_patch(real, ask, row, rgba, method_of, technique):
    args = ask(method_of(technique), preview=False, decode_passes=1)
    picture, mask = rgba(real.side), square(real.side, (8, 8, 40, 40))
    body = {"img2img": True, "init_images": [picture], "mask": mask, "denoising_strength": 0.75}
    body["inpaint_full_res"] = False
    plain = real.run(None)
    also = unit(real.control_model("inpaint_patch"), picture.convert("RGB"), mask_image=encoded(mask.convert("RGB")))
    result = real.run(args, also=also, **body)
    assert isinstance(result.error, LayerDiffusionError)
    assert real.run(None).same_as(plain)
    row("Fooocus' inpaint patch", technique, f"refused before sampling: {result.message}")


def test_the_inpaint_patch_alone(real, rgba):
    """The test's own file does something, or the rows above would say nothing."""
    picture, mask = rgba(real.side).convert("RGB"), square(real.side, (8, 8, 40, 40))
    body = {"img2img": True, "init_images": [picture], "mask": mask, "inpaint_full_res": False}
    also = unit(real.control_model("inpaint_patch"), picture, mask_image=encoded(mask.convert("RGB")))
    patched, plain = real.run(None, also=also, **body), real.run(None, **body)
    assert patched.error is None
    assert not patched.same_as(plain)


@pytest.fixture(scope="module")
def encoder_folder(host, tmp_path_factory):
    """Holds CLIP's image encoder, which is too large to be left behind."""
    from tests.hosts.forge.host_files import write_image_encoder

    folder = tmp_path_factory.mktemp("image_encoder")
    path = folder / "CLIP-ViT-H-14.safetensors"
    write_image_encoder(path)
    yield folder
    path.unlink()


@pytest.fixture
def image_encoder(real, monkeypatch, request):
    """Name of the host's preprocessor for IP-Adapter, which finds its image encoder.

    Neo 2.26 cannot load it: its patcher writes `device`, which transformers' models have as a property. There the
    adapter gets an embedding as it would come from the encoder.
    """
    preprocessors = pytest.importorskip("modules_forge.supported_preprocessor")
    from modules_forge.shared import supported_preprocessors

    name = "CLIP-ViT-H (IPAdapter)"
    if name not in supported_preprocessors:
        pytest.skip("this host has no IP-Adapter")
    monkeypatch.setattr(preprocessors, "preprocessor_dir", str(request.getfixturevalue("encoder_folder")))
    preprocessor = supported_preprocessors[name]
    try:
        preprocessor.load_clipvision()
    except AttributeError:
        embeds = torch.stack([torch.randn(1, 1024, generator=torch.Generator().manual_seed(17)), torch.zeros(1, 1024)])
        given = {"embeds": embeds, "weight_type": "original", "noise": 0.0, "unfold_batch": False}
        monkeypatch.setattr(type(preprocessor), "__call__", lambda *_, **__: given)
    return name


def difference(first, second, number):
    return np.abs(first.array(number).astype(float) - second.array(number)).mean()


@pytest.mark.parametrize("technique", METHODS_OF)
def test_ip_adapter(real, ask, row, rgb, method_of, technique, image_encoder):
    args, size = ask(method_of(technique), preview=False, decode_passes=1), 3 if technique == FRAMES else 1
    model, plain, without = real.control_model("adapter"), real.run(None), real.run(args, batch_size=size)

    def adapter(weight, **values):
        return unit(model, rgb(real.side), module=image_encoder, weight=weight, **values)

    alone = real.run(None, also=adapter(1.0))
    assert alone.reports == []
    assert not alone.same_as(plain)
    adapted = real.run(args, batch_size=size, also=adapter(1.0))
    assert adapted.reports == []
    assert modes(adapted) == modes(without) == ["RGBA", *["RGB"] * (size - 1)]
    assert adapted.array()[..., 3].std() > 0
    hardly = real.run(args, batch_size=size, also=adapter(1e-4))
    for number in range(size):
        assert difference(adapted, without, number) > 10 * difference(hardly, without, number)
    left = encoded(square(real.side, (0, 0, real.side // 2, real.side)).convert("RGB"))
    within = real.run(args, batch_size=size, also=adapter(1.0, mask_image=left, guidance_end=0.6))
    assert within.reports == []
    for number in range(size):
        assert 0 < difference(within, without, number) != difference(within, adapted, number) > 0
    assert real.run(None).same_as(plain)
    row("IP-Adapter in a mask and up to 0.6", technique, "the layers, the first with alpha")
    row("IP-Adapter", technique, "the layers, the first with alpha; plain pictures afterwards as before")
