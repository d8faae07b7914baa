"""What people do with a picture, in a real host; the rows of the table in docs/alpha.md are what these tests find.

    pytest tests/hosts/forge/test_forge_matrix.py --forge-root FORGE --alpha-matrix FILE

appends a JSON line for each row to FILE; `python -m tests.hosts.forge.matrix_table HOST=FILE ...` makes the table.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from lib_layerdiffusion.errors import LayerDiffusionError
from tests.hosts.forge import host_scripts
from tests.hosts.forge.host_scripts import NEURAL
from tests.hosts.forge.hosts import LORA
from tests.hosts.forge.matrix_table import FRAMES, METHODS_OF, OFFSETS, ONE
from tests.hosts.forge.test_forge_init_pictures import square
from tests.hosts.forge.third_parties import Postprocessing, Raising, Replacing, Wildcards

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
XL_FG_TO_BLEND = "(SDXL) From Foreground to Blending"
FG_TO_BG = "(SD1.5) From Foreground to Background (need batch size 2)"
PICTURES = "LayerDiffusion pictures"
LONG = "a very detailed apple on a wooden table with flowers, " * 20
HRFIX = ("kohya hrfix integrated", [True, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic"])
TILED = ("multidiffusion integrated", [True, "MultiDiffusion", 64, 64, 16, 4])
FREEU = "freeu integrated (sd 1.x, sd 2.x, sdxl)"
LIGHTNING = {"sampler_name": "Euler", "scheduler": "SGM Uniform", "cfg_scale": 1}
SAMPLING = {
    "prompt editing": {"prompt": "an [apple:pear:0.5]"},
    "BREAK": {"prompt": "an apple BREAK a table"},
    "AND": {"prompt": "an apple AND a table :0.7"},
    "a prompt of 200 tokens": {"prompt": LONG},
    "clip skip 2": {"override_settings": {"CLIP_stop_at_last_layers": 2}},
    "variation seed": {"subseed": 9, "subseed_strength": 0.4},
    "tiling": {"tiling": True},
    "LCM, one step, CFG 1": {"sampler_name": "LCM", "steps": 1, "cfg_scale": 1},
    "DDIM, four steps, CFG 1": {"sampler_name": "DDIM", "steps": 4, "cfg_scale": 1},
    "hires fix, latent": {"enable_hr": True, "hr_upscaler": "Latent"},
    "hires fix, Lanczos": {"enable_hr": True, "hr_upscaler": "Lanczos"},
    f"hires fix, {NEURAL}": {"enable_hr": True, "hr_upscaler": NEURAL},
    # At 64 pixels its own division by a range gives no number: the deepest layer has one pixel.
    "FreeU": {"also": (FREEU, [True, 1.01, 1.02, 0.99, 0.95, 0.0, 1.0]), "width": 128, "height": 128},
    "FreeU with SD1.5's factors": {"also": (FREEU, [True, 1.5, 1.6, 0.9, 0.2, 0.0, 1.0]), "width": 128, "height": 128},
    "SGM Uniform (Lightning), one step, CFG 1": {**LIGHTNING, "steps": 1},
    "SGM Uniform (Lightning), two steps, CFG 1": {**LIGHTNING, "steps": 2},
    "SGM Uniform (Lightning), eight steps, CFG 1": {**LIGHTNING, "steps": 8},
    "Turbo schedule, one step, CFG 1": {"sampler_name": "Euler a", "scheduler": "Turbo", "steps": 1, "cfg_scale": 1},
    "DPM++ SDE, four steps, CFG 1": {"sampler_name": "DPM++ SDE", "steps": 4, "cfg_scale": 1},
    "a LoRA, four steps, CFG 1": {"prompt": f"an apple {LORA}", "steps": 4, "cfg_scale": 1},
    "Stop At 0.5 with one step": {"steps": 1, "settings": {"stop_at": 0.5}},
    "Kohya HRFix": {"also": HRFIX},
    "MultiDiffusion": {"also": TILED, "width": 128},
    "self-attention guidance": {"guidance": "sag"},
    "perturbed-attention guidance": {"guidance": "pag"},
    "an attention replaced as IP-Adapter does": {"others": "adapter"},
    "webp as the format of files": {"override_settings": {"samples_format": "webp"}},
    "a script that raises in every hook": {"others": "raising"},
}


def modes(result):
    assert result.error is None, result.message
    return [image.mode for image in result.images]


def adapter():
    """Puts an attention of its own into every cross-attention, as the host's IP-Adapter does."""
    from tests.hosts.forge.third_parties import Adapter

    return Adapter()


def body_of(given):
    body = dict(given)
    others = {"adapter": adapter, "raising": Raising}.get(body.get("others"))
    if others is not None:
        body["others"] = [others()]
    return body


@pytest.fixture(scope="session")
def plain_at_start(host):
    """A plain picture before anything else was tried."""
    host.use("sd15")
    host.option("samples_format", "png")
    return host.run(None)


@pytest.mark.usefixtures("plain_at_start")
@pytest.mark.parametrize("technique", METHODS_OF)
@pytest.mark.parametrize("done", SAMPLING)
def test_ways_of_sampling(real, ask, row, rgba, method_of, done, technique):
    body, method = body_of(SAMPLING[done]), method_of(technique)
    if "also" in body and host_scripts.is_on_the_second_tab_alone(body["also"][0]):
        body |= {"img2img": True, "init_images": [rgba(real.side)], "denoising_strength": 0.75}
    size = 3 if technique == FRAMES else 1
    given = {"preview": False, "decode_passes": 1, **body.pop("settings", {})}
    result = real.run(ask(method, **given), batch_size=size, **body)
    assert modes(result) == ["RGBA", *["RGB"] * (size - 1)]
    assert result.array()[..., 3].std() > 0
    row(done, technique, "the layers, the first with alpha")


def test_a_plain_picture_after_all_ways_of_sampling(real, row, plain_at_start):
    assert real.run(None).same_as(plain_at_start)
    row("a plain picture after all of these ways of sampling", "all", "bit-identical to one before them")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_a_plain_picture_afterwards_is_the_same(real, ask, row, method_of, technique):
    method = method_of(technique)
    before = real.run(None)
    made = real.run(ask(method, preview=False, decode_passes=1), batch_size=3)
    assert modes(made)[0] == "RGBA"
    assert real.run(None).same_as(before)
    row("a plain picture afterwards", technique, "bit-identical to one before")


@pytest.mark.parametrize("technique", [FRAMES, OFFSETS])
def test_a_condition_method_directly_before_and_after_a_plain_run(real, ask, row, rgba, method_of, technique):
    method_of(technique)
    args = ask(XL_FG_TO_BLEND if technique == OFFSETS else FG_TO_BG, foreground=np.asarray(rgba()))
    plain = real.run(None)
    first = real.run(args, batch_size=2)
    assert real.run(None).same_as(plain)
    assert real.run(args, batch_size=2).same_as(first)
    row("a condition method directly before and after a plain run", technique, "both as ever, bit by bit")


@pytest.mark.parametrize("technique", METHODS_OF)
@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos", NEURAL])
def test_the_upscale_button(real, ask, row, rgba, method_of, upscaler, technique):
    chosen = rgba(real.side)
    body = {"firstpass_image": chosen, "enable_hr": True, "hr_upscaler": upscaler, "hr_scale": 2}
    result = real.run(ask(method_of(technique), preview=False, decode_passes=1), **body)
    assert modes(result) == ["RGBA"]
    assert result.images[0].size == (128, 128)
    row(f"the gallery's upscale button, {upscaler}", technique, "one picture with alpha at the new size")


def doubled(image):
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("done", ["upscaled by a script after sampling", "cropped by a script after sampling"])
def test_a_changed_size(real, ask, row, done):
    change, size = (doubled, 128) if "upscaled" in done else (lambda image: image.crop((8, 16, 48, 56)), 40)
    args = ask(TRANSPARENT, preview=False, decode_passes=1)
    plain = real.run(args).images[0]
    result = real.run(args, others=[Postprocessing(change)])
    assert modes(result) == ["RGBA"]
    assert result.images[0].size == (size, size)
    expected = np.asarray(change(plain), float)[..., 3]
    assert np.abs(result.array()[..., 3] - expected).mean() < 4
    row(done, ONE, "colour and alpha at the new size")


@pytest.mark.parametrize("only_masked", [True, False])
def test_a_change_under_a_mask(real, ask, row, rgba, only_masked):
    side = 2 * real.side if only_masked else real.side
    picture, mask = rgba(side), square(side, (8, 8, side // 2, side // 2))
    body = {"init_images": [picture], "mask": mask, "inpaint_full_res": only_masked, "denoising_strength": 0.75}
    args = ask(TRANSPARENT, preview=False, decode_passes=1)
    plain = real.run(args, img2img=True, **body)
    changed = real.run(args, img2img=True, others=[Postprocessing(ImageOps.invert)], **body)
    assert modes(plain) == modes(changed) == ["RGBA"]
    assert not plain.same_as(changed)
    far = np.ones((side, side), bool)
    far[: side // 2 + 8, : side // 2 + 8] = False
    for result in (plain, changed):
        assert np.array_equal(result.array()[far], np.asarray(picture)[far])
    area = "only masked" if only_masked else "whole picture"
    row(
        f"inpainting, {area}, then a script that changes the picture",
        ONE,
        "taken over; outside the mask the very bytes",
    )


def test_soft_inpainting(real, ask, row, rgba):
    side = real.side
    picture, mask = rgba(side), square(side, (8, 8, side // 2, side // 2))
    body = {"init_images": [picture], "mask": mask, "inpaint_full_res": False, "denoising_strength": 0.75}
    soft = ("soft inpainting", [True, 1, 0.5, 4, 0, 0.5, 2])
    result = real.run(ask(TRANSPARENT, preview=False, decode_passes=1), img2img=True, also=soft, **body)
    assert modes(result) == ["RGBA"]
    assert result.array()[..., 3].std() > 0
    row("soft inpainting", ONE, "a picture with alpha")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_prompt_matrix(real, ask, row, method_of, technique):
    script = ("prompt matrix", [False, False, "positive", "comma", 0])
    result = real.run(
        ask(method_of(technique), preview=False, decode_passes=1), prompt="an apple|red|big", script=script
    )
    frames = 3 if technique == FRAMES else 1
    assert modes(result)[1:5] == ["RGBA"] * 4
    assert result.images[1].size == (frames * real.side, real.side)
    entries = result.info["extra_generation_params"][PICTURES]
    assert [entry["index"] for entry in entries[:4]] == [1, 2, 3, 4]
    row("prompt matrix of four", technique, "four pictures, named in the answer behind the grid")


def test_xyz_plot_of_methods(real, ask, row):
    axis = host_scripts.axis_number("[LayerDiffusion] Method")
    script = host_scripts.plot(axis, listed=[TRANSPARENT, TOGETHER])
    result = real.run(ask(TRANSPARENT, preview=False, decode_passes=1), script=script)
    sizes = [image.size for image in result.images[1:]]
    assert (real.side, real.side) in sizes
    assert (3 * real.side, real.side) in sizes
    row("X/Y/Z plot over methods", "one picture and three frames", "each cell shows what its method made")
    other = "(SDXL) Only Generate Transparent Image (Attention Injection)"
    refused = real.run(ask(TRANSPARENT), script=host_scripts.plot(axis, listed=[other, TRANSPARENT]))
    assert "SDXL" in refused.message
    row("X/Y/Z plot with a method of the other family", ONE, f"refused before the first cell: {refused.message}")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_wildcards(real, ask, row, method_of, technique):
    args = ask(method_of(technique), preview=False, decode_passes=1)
    result = real.run(args, batch_size=3, others=[Wildcards()])
    if technique == FRAMES:
        assert result.same_as(real.run(args, batch_size=3, prompt="an apple 0"))
        row("wildcards that write a prompt for each item", technique, "frames of a picture share one prompt")
        return
    assert modes(result) == ["RGBA"] * 3
    assert [text.split("\n")[0] for text in result.info["infotexts"]] == [f"an apple {n}" for n in range(3)]
    row("wildcards that write a prompt for each item", technique, "each picture has its own prompt")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_several_init_pictures(real, ask, row, rgba, method_of, technique):
    pictures = [rgba(real.side, seed) for seed in (1, 5)]
    args, frames = ask(method_of(technique), preview=False, decode_passes=1), 3 if technique == FRAMES else 1
    result = real.run(args, img2img=True, init_images=pictures, batch_size=2, denoising_strength=0.5)
    assert modes(result) == ["RGBA", *["RGB"] * (frames - 1)] * 2
    row("image-to-image of two pictures", technique, "a set of layers for each")


@pytest.mark.parametrize("technique", METHODS_OF)
def test_a_refiner(real, ask, row, method_of, technique):
    args, frames = ask(method_of(technique), preview=False, output_origin=True, decode_passes=1), 3
    body = {"steps": 4, "refiner_checkpoint": real.second_checkpoint(), "refiner_switch_at": 0.5, "batch_size": frames}
    refined = real.run(args, **body)
    stopped = real.run([*args[:3], 0.5, *args[4:]], **body)
    assert refined.images[0].mode == stopped.images[0].mode == "RGBA"
    assert not refined.same_as(stopped)
    row("a refiner of the family", technique, "the method goes on in it")


def test_a_condition_and_hrfix(real, ask, row, rgba):
    args = ask(FG_TO_BG, foreground=np.asarray(rgba(96)), decode_passes=1)
    result = real.run(args, batch_size=2, width=128, height=128, also=HRFIX)
    assert modes(result) == ["RGB", "RGB"]
    row("Kohya HRFix beside a condition picture", "two frames", "the signal follows the size of the UNet")


def test_a_condition_and_tiled_sampling(real, ask, row, rgba):
    args, body = ask(FG_TO_BG, foreground=np.asarray(rgba(96)), decode_passes=1), {}
    if host_scripts.is_on_the_second_tab_alone(TILED[0]):
        body = {"img2img": True, "init_images": [rgba(128)], "denoising_strength": 0.75}
    refused = real.run(args, batch_size=2, width=128, also=TILED, **body)
    assert isinstance(refused.error, LayerDiffusionError)
    row("MultiDiffusion beside a condition picture", "two frames", f"refused: {refused.message}")


def test_token_merging(real, ask, row):
    refused = real.run(ask(TRANSPARENT), guidance="tome")
    assert isinstance(refused.error, LayerDiffusionError)
    row("token merging", ONE, f"refused: {refused.message}")


@pytest.mark.parametrize("title", ["Outpainting mk2", "Poor man's outpainting"])
def test_scripts_that_join_without_alpha(real, ask, row, rgba, title):
    script = host_scripts.outpainting(title)
    side = 2 * host_scripts.OUTPAINTED  # the host divides by what of a tile lies outside that margin
    body = {"img2img": True, "init_images": [rgba(side)], "width": side, "height": side}
    refused = real.run(ask(TRANSPARENT), script=script, **body)
    assert isinstance(refused.error, LayerDiffusionError)
    row(title, ONE, f"refused before sampling: {refused.message}")


def test_sd_upscale(real, ask, row, rgba):
    picture = rgba(96)
    body = {"img2img": True, "init_images": [picture], "denoising_strength": 0.3}
    args, script = ask(TRANSPARENT, decode_passes=1), host_scripts.sd_upscale(real.pixel_upscaler(), 1.5, overlap=16)
    result = real.run(args, script=script, **body)
    assert modes(result) == ["RGBA", "RGB"]
    assert result.images[0].size == (144, 144)
    assert result.array()[0, 0, 3] < 255
    row("SD upscale of a picture with alpha", ONE, "tiles painted and joined with alpha, and a preview")
    refused = real.run(ask(TOGETHER), script=script, **body)
    assert isinstance(refused.error, LayerDiffusionError)
    row("SD upscale of a picture with alpha", FRAMES, f"refused before sampling: {refused.message}")


def test_a_replaced_picture(real, ask, row):
    result = real.run(ask(TRANSPARENT, preview=False, decode_passes=1), others=[Replacing()])
    assert "another extension put other pictures" in str(result.info["extra_generation_params"])
    row("a script that puts an RGB picture in the layer's place", ONE, "the answer and the page say so")
