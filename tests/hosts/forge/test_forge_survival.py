"""Alpha goes through what the host's buttons, its scripts and other people's scripts do with a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.methods import METHODS
from tests.hosts.forge.test_forge_init_pictures import square
from tests.hosts.forge.third_parties import Joining, Plot, Postprocessing, PromptMatrix, Raising, Replacing, Wildcards

ANSWER_KEY, NOTICES_KEY = "LayerDiffusion pictures", "LayerDiffusion notices"
TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"
FG_TO_BG = "(SD1.5) From Foreground to Background (need batch size 2)"
XL_TRANSPARENT = "(SDXL) Only Generate Transparent Image (Attention Injection)"


def modes(result):
    assert result.error is None, result.message
    assert not result.reports
    return [image.mode for image in result.images]


def upscaled(fake, args, chosen, upscaler="Lanczos"):
    body = {"firstpass_image": chosen, "txt2img_upscale": True, "enable_hr": True, "hr_upscaler": upscaler}
    return fake.run(args, width=chosen.width, height=chosen.height, denoising_strength=0.5, **body)


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
@pytest.mark.parametrize("method", [TRANSPARENT, XL_TRANSPARENT, TOGETHER])
def test_the_upscale_button_gives_the_layer_at_the_new_size(fake, ask, rgba, upscaler, method):
    fake.use("sdxl" if method == XL_TRANSPARENT else "sd15")
    chosen = rgba()
    result = upscaled(fake, ask(method, preview=False), chosen, upscaler)
    assert modes(result) == ["RGBA"]
    assert result.images[0].size == (2 * chosen.width, 2 * chosen.height)
    solid = chosen.copy()
    solid.putalpha(255)
    assert not result.same_as(upscaled(fake, ask(method, preview=False), solid.convert("RGBA"), upscaler))


def test_the_upscale_button_on_other_frames_and_without_layers(fake, ask, rgba, rgb):
    background = rgb()
    plain = upscaled(fake, None, background)
    assert upscaled(fake, ask(TOGETHER), background).same_as(plain)
    marked = background.convert("RGBA")
    marked.putpixel((0, 0), (*marked.getpixel((0, 0))[:3], 254))  # the host's text in the last bit
    assert upscaled(fake, ask(TOGETHER), marked).same_as(plain)
    for upscaler in ("Latent", "Lanczos"):
        assert modes(upscaled(fake, [{"enabled": False}], rgba(), upscaler)) == ["RGB"]


def doubled(image):
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS)


def cropped(image):
    return image.crop((8, 16, 48, 56))


@pytest.mark.parametrize(("change", "size"), [(doubled, (128, 128)), (cropped, (40, 40))])
def test_a_changed_size_is_followed(fake, ask, change, size):
    plain = fake.run(ask(TRANSPARENT, preview=False)).images[0]
    result = fake.run(ask(TRANSPARENT, preview=False), others=[Postprocessing(change)])
    assert modes(result) == ["RGBA"]
    assert result.images[0].size == size
    expected = np.asarray(change(plain), float)
    assert np.abs(result.array()[..., 3] - expected[..., 3]).mean() < 4
    seen = expected[..., 3] >= max(1, np.median(expected[..., 3]))
    assert np.abs(result.array()[..., :3] - expected[..., :3])[seen].mean() < 12


def test_what_cannot_be_followed_is_said(fake, ask):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8))
    result = fake.run(ask(TRANSPARENT, preview=False), others=[Postprocessing(lambda _: noise)])
    assert result.images[0].size == (64, 64)
    assert "could not follow" in result.info["comments"]


@pytest.mark.parametrize("only_masked", [True, False])
def test_later_changes_stay_under_a_mask(fake, ask, rgba, only_masked):
    side = fake.side
    picture, mask = rgba(side), square(side, (8, 8, 40, 40))
    body = {"init_images": [picture], "mask": mask, "inpaint_full_res": only_masked, "denoising_strength": 0.75}
    args = ask(TRANSPARENT, preview=False)
    without = fake.run(args, img2img=True, **body)
    touched = fake.run(
        args, img2img=True, others=[Postprocessing(lambda i: ImageEnhance.Brightness(i).enhance(1))], **body
    )
    changed = fake.run(args, img2img=True, others=[Postprocessing(ImageOps.invert)], **body)
    assert modes(without) == modes(changed) == ["RGBA"]
    assert without.same_as(touched)
    assert not without.same_as(changed)
    outside = np.asarray(mask) == 0
    assert np.array_equal(changed.array()[outside], np.asarray(picture)[outside])


def test_a_prompt_matrix_gives_a_picture_for_each_prompt(fake, ask):
    prompt = "an apple|a pear|a lamp|a chair"
    result = fake.run(ask(TOGETHER, preview=False), prompt=prompt, batch_size=1, script=PromptMatrix())
    assert modes(result)[1:5] == ["RGBA"] * 4
    assert result.images[1].size == (3 * fake.side, fake.side)
    assert [image.size for image in result.images[5:]] == [(fake.side, fake.side)] * 12
    alone = fake.run(ask(TOGETHER, preview=False), prompt="a lamp", batch_size=3)
    assert [np.array_equal(result.array(5 + 6 + i), alone.array(i)) for i in range(3)] == [True] * 3
    assert "a lamp" in result.info["infotexts"][3]


def test_frames_share_the_prompt_that_wildcards_write(fake, ask):
    result = fake.run(ask(TOGETHER, preview=False), batch_size=3, others=[Wildcards()])
    assert result.same_as(fake.run(ask(TOGETHER, preview=False), batch_size=3, prompt="an apple 0"))


def test_the_answer_counts_behind_a_grid(fake, ask):
    result = fake.run(ask(TRANSPARENT), prompt="an apple|a pear", batch_size=1, script=PromptMatrix())
    pictures = result.info["extra_generation_params"][ANSWER_KEY]
    assert [(entry["index"], entry["kind"]) for entry in pictures] == [
        (1, "layer"),
        (2, "layer"),
        (3, "preview"),
        (4, "preview"),
    ]


def test_an_opaque_frame_is_none_with_alpha_after_the_hosts_text_in_it(fake, ask):
    result = fake.run(ask(TOGETHER, preview=False), batch_size=3, save_images=True)
    pictures = result.info["extra_generation_params"][ANSWER_KEY]
    assert [entry["alpha"] for entry in pictures] == [True, False, False]


def test_a_plot_shows_what_each_method_makes(fake, ask):
    from lib_layerdiffusion.hosts.forge.xyz import AXES

    axis = next(axis for axis in AXES if axis.name == "method")
    plot = Plot(lambda p, value: axis.apply(p, value, []), [TRANSPARENT, TOGETHER])
    result = fake.run(ask(TRANSPARENT, preview=False), batch_size=1, script=plot)
    assert [image.size for image in result.images[1:3]] == [(64, 64), (192, 64)]
    kinds = [(entry["index"], entry["kind"]) for entry in result.info["extra_generation_params"][ANSWER_KEY]]
    assert kinds[:2] == [(1, "layer"), (2, "frames")]


@pytest.mark.parametrize("title", ["Outpainting mk2", "Poor man's outpainting", "Ultimate SD upscale"])
def test_scripts_that_join_without_alpha_are_told_of_before_sampling(fake, ask, rgba, title):
    result = fake.run(ask(TRANSPARENT), img2img=True, init_images=[rgba()], script=Joining(title))
    assert isinstance(result.error, LayerDiffusionError)
    assert title in result.message


def test_tiles_are_single_pictures(fake, ask, rgba):
    result = fake.run(ask(TOGETHER), img2img=True, init_images=[rgba()], script=Joining("SD upscale"))
    assert "each tile" in result.message


def test_each_init_picture_makes_a_set(fake, ask, rgba):
    pictures, args = [rgba(64, seed) for seed in (1, 5)], ask(TOGETHER, preview=False)
    body = {"img2img": True, "denoising_strength": 0.5}
    result = fake.run(args, init_images=pictures, batch_size=2, **body)
    assert modes(result) == ["RGBA", "RGB", "RGB"] * 2
    assert not np.array_equal(result.array(0), result.array(3))
    alone = fake.run(args, init_images=pictures[1:], batch_size=3, seed=4, **body)
    # The VAE draws anew for each item without alpha, and frames see each other.
    near, far = (np.abs(result.array(3).astype(int) - other).mean() for other in (alone.array(0), result.array(0)))
    assert near < 0.1 * far
    same = [pictures[0]] * 4  # the Batch tab gives one file so
    assert len(fake.run(args, init_images=same, batch_size=4, **body).images) == 6


def test_a_request_is_as_it_was_after_the_run(fake, ask, rgba):
    from modules import processing

    p = fake._processing(ask(TOGETHER), True, {"init_images": [rgba()], "batch_size": 1})
    processing.process_images(p)
    assert p.batch_size == 1


def test_the_answer_says_that_a_batch_was_rounded_up(fake, ask):
    notices = fake.run(ask(TOGETHER), batch_size=1).info["extra_generation_params"][NOTICES_KEY]
    assert any("became 3" in notice for notice in notices)


@pytest.mark.parametrize(("family", "method"), [("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)])
def test_a_refiner_of_the_family_goes_on_with_the_method(fake, ask, family, method):
    from fakehost import model

    fake.use(family)
    plain_before = fake.run(None, steps=4)
    refiner = model.StableDiffusionXL() if family == "sdxl" else model.StableDiffusion()
    fake.use(family)
    body = {"steps": 4, "refiner": refiner, "refiner_switch_at": 0.5}
    refined = fake.run(ask(method, preview=False, output_origin=True), **body)
    stopped = fake.run(ask(method, preview=False, output_origin=True, stop_at=0.5), **body)
    assert modes(refined) == ["RGBA", "RGB"]
    assert not np.array_equal(refined.array(1), stopped.array(1))
    fake.use(family)
    assert fake.run(None, steps=4).same_as(plain_before)


def test_another_refiner_is_told_of(fake, ask):
    from fakehost import model

    refiner = model.StableDiffusionXL()
    fake.use("sd15")
    result = fake.run(ask(TRANSPARENT), steps=4, refiner=refiner, refiner_switch_at=0.5)
    assert result.error is None
    assert "refiner finishes the picture without" in result.info["comments"]
    assert fake.run(ask(TRANSPARENT), n_iter=2, steps=4).error is None


def test_scripts_that_fail_leave_our_run_alone(fake, ask):
    whole = fake.run(ask(TRANSPARENT))
    result = fake.run(ask(TRANSPARENT), others=[Raising()])
    assert [image.mode for image in result.images] == ["RGBA", "RGB"]
    assert result.same_as(whole)


def test_a_replaced_picture_is_said(fake, ask):
    result = fake.run(ask(TRANSPARENT, preview=False), others=[Replacing()])
    assert modes(result) == ["RGB"]
    assert "another extension put other pictures" in result.info["comments"]


def test_every_family_can_upscale_a_foreground():
    for method in METHODS.values():
        alone = METHODS.alone(method.family)
        assert alone is not None
        assert alone.frames == METHODS.alone(alone.family).frames
        assert not alone.inputs


def test_a_method_of_another_family_is_said_before_a_plots_first_cell(fake, ask):
    from types import SimpleNamespace

    from lib_layerdiffusion.errors import ModelError
    from lib_layerdiffusion.hosts.forge.xyz import AXES

    axis = next(axis for axis in AXES if axis.name == "method")
    labels = [SimpleNamespace(label=label) for label in ("Nothing", "Checkpoint name", axis.label)]
    plot = SimpleNamespace(title=lambda: "X/Y/Z plot", args_from=1, args_to=10, current_axis_options=labels)
    p = fake._processing(ask(TRANSPARENT), False, {"script": plot})
    p.script_args = [1, 2, "", [], 0, "", [], 0, "", []]
    axis.confirm(p, [TRANSPARENT, TOGETHER])
    with pytest.raises(ModelError, match="SDXL"):
        axis.confirm(p, [TRANSPARENT, XL_TRANSPARENT])
    p.script_args[4] = 1  # checkpoints on the second axis
    axis.confirm(p, [TRANSPARENT, XL_TRANSPARENT])


def test_what_goes_wrong_in_a_plots_cell_is_said_below_it(fake, ask, monkeypatch):
    from types import SimpleNamespace

    from modules import processing, scripts

    from lib_layerdiffusion.hosts.forge import xyz

    class Plotter:
        """As the host's: a cell that fails is an empty picture."""

        def title(self):
            return "X/Y/Z plot"

        def run(self, p):
            whole = None
            for method in (TRANSPARENT, XL_TRANSPARENT, XL_TRANSPARENT, None):
                cell = processing.shallow_copy(p)
                xyz.AXES[0].apply(cell, method or TRANSPARENT, [])
                if method is None:
                    cell.steps = "many"
                try:
                    whole = whole or module.process_images(cell)
                    whole = module.process_images(cell) if method is not TRANSPARENT else whole
                except Exception:  # noqa: BLE001
                    whole.images.append(Image.new("P", (64, 64)))
            return whole

    module = SimpleNamespace(axis_options=[], AxisOption=lambda *_, **__: SimpleNamespace(label=""))
    module.process_images = own = processing.process_images
    data = SimpleNamespace(path="/host/scripts/xyz_grid.py", script_class=Plotter, module=module)
    monkeypatch.setattr(scripts, "scripts_data", [data], raising=False)
    for _ in range(2):
        xyz.add_axes(lambda script: isinstance(script, fake.script_class))
    p = fake._processing(ask(TRANSPARENT, preview=False), False, {"script": Plotter()})
    p.scripts.alwayson_scripts = p.scripts.scripts
    processed = p.scripts.run(p)
    notices = processed.extra_generation_params[NOTICES_KEY]
    assert [notice[:48] for notice in notices if "cells are empty" in notice] == [
        "LayerDiffusion: 2 of the plot's cells are empty,",
        "LayerDiffusion: 1 of the plot's cells are empty,",
    ]
    assert "SDXL" in notices[0]
    assert all(notice in processed.comments for notice in notices)
    assert module.process_images is own


KINDS = [("sd15", TRANSPARENT), ("sd15", TOGETHER), ("sdxl", XL_TRANSPARENT)]


@pytest.mark.parametrize(("family", "method"), KINDS)
@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("stop_at", [0.5, 1.0])
def test_few_steps_without_guidance(fake, ask, family, method, steps, stop_at):
    """As Lightning, LCM and TCD models are used."""
    fake.use(family)
    plain = fake.run(None, steps=steps, cfg_scale=1)
    args = ask(method, preview=False, output_origin=True, stop_at=stop_at)
    result = fake.run(args, steps=steps, cfg_scale=1, batch_size=3)
    frames = 3 if method == TOGETHER else 1
    assert modes(result)[:3] == ["RGBA", *["RGB"] * (frames - 1), *["RGBA"] * (3 - frames)][:3]
    before_decoding = result.images[3]
    assert not np.array_equal(np.asarray(before_decoding), plain.array())  # the method was in the only step, too
    assert fake.run(None, steps=steps, cfg_scale=1).same_as(plain)


@pytest.mark.parametrize(("family", "method"), [("sd15", FG_TO_BG), ("sdxl", "(SDXL) From Foreground to Blending")])
def test_a_condition_method_directly_before_and_after_a_plain_run(fake, ask, rgba, family, method):
    fake.use(family)
    plain = fake.run(None)
    args = ask(method, foreground=np.asarray(rgba()))
    first = fake.run(args, batch_size=2)
    assert fake.run(None).same_as(plain)
    assert fake.run(args, batch_size=2).same_as(first)
    assert fake.run(None).same_as(plain)


class InpaintPatch:
    """Fooocus' as far as a patcher shows it."""

    args_from = args_to = 0

    def process_before_every_sampling(self, p, *_, **__):
        unet = p.sd_model.forge_objects.unet.clone()
        name = next(name for name, _ in unet.model.named_parameters() if name.endswith("to_q.weight"))
        patches = {name: [(1.0, ("fooocus", [0, 1, 2]), 1.0, None, None)]}
        if hasattr(unet, "lora_patches"):
            unet.lora_patches["inpaint.patch"] = patches
        else:
            unet.patches = patches
        p.sd_model.forge_objects.unet = unet


@pytest.mark.parametrize(("family", "method"), [("sd15", TRANSPARENT), ("sdxl", XL_TRANSPARENT)])
def test_the_inpaint_patch_is_refused_before_sampling(fake, ask, family, method):
    from modules import processing

    fake.use(family)
    p = fake._processing(ask(method), False, {"others": [InpaintPatch()]})
    p.scripts.scripts.reverse()
    result = fake._process(processing.process_images, p)
    assert isinstance(result.error, LayerDiffusionError)
    assert "Fooocus" in result.message
    assert fake.run(ask(method)).error is None


def test_a_foreground_without_alpha_is_told_of(fake, ask, rgb, rgba):
    told = fake.run(ask(FG_TO_BG, foreground=np.asarray(rgb())), batch_size=2)
    assert "opaque throughout" in told.info["comments"]
    silent = fake.run(ask(FG_TO_BG, foreground=np.asarray(rgba())), batch_size=2)
    assert "opaque throughout" not in silent.info["comments"]
