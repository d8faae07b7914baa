"""The same request to a fake and to a real host: what goes in is Forge's API, what comes out is a `Result`."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_layerdiffusion.settings.fields import FIELDS
from tests.hosts.forge import host_scripts, starting

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "layerdiffusion.py"
LORA = "<lora:rand15:1>"
SECOND = "second_sd15.safetensors"
GUIDANCE = {
    "sag": ("selfattentionguidance integrated (sd 1.x, sd 2.x, sdxl)", [True, 0.5, 2.0, 1.0]),
    "pag": ("perturbedattentionguidance integrated", [True, 3.0, 0.0, 0.0, 1.0]),
}

CONTROL_FILES = {
    "control": "control.safetensors",
    "inpaint_patch": "inpaint.patch",
    "adapter": "ip-adapter_sd15.safetensors",
}


def arguments(method: str, **values: Any) -> list[Any]:
    """Settings by name -> the script's positional arguments."""
    given = {"enabled": True, "method": method, **values}
    if unknown := set(given) - {row.name for row in FIELDS}:
        raise KeyError(unknown)
    return [given.get(row.name) for row in FIELDS]


@dataclass
class Result:
    """images: pictures first, then previews. error: what page and API would show. reports: what the console shows.

    info: of the API's answer."""

    images: list[Image.Image] = field(default_factory=list)
    error: BaseException | None = None
    reports: list[str] = field(default_factory=list)
    infotext: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        return str(self.error)

    def array(self, index: int = 0) -> np.ndarray:
        return np.asarray(self.images[index])

    def same_as(self, other: Result) -> bool:
        """Bit-identical pictures; neither run may have failed."""
        if self.error or other.error:
            raise AssertionError(self.error or other.error)
        pairs = zip(self.images, other.images, strict=True)
        return all(a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


class FakeForge:
    """The real script in tests/fake_forge."""

    is_real = False
    side = 64

    def __init__(self, folder: Path) -> None:
        from modules import paths, shared
        from modules.api import api  # noqa: F401  # as where the API is on

        from tests.hosts.forge import weights

        paths.models_path = str(folder)
        self.weights = folder / "layer_model"
        weights.write_all(self.weights)
        shared.loras["rand15"] = weights.lora()
        self.outputs = folder / "outputs"
        spec = spec_from_file_location("layerdiffusion_script", SCRIPT)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        self.module = sys.modules[module.LayerDiffusionScript.__module__]
        self.script_class = module.LayerDiffusionScript
        self.models = {}

    def use(self, family: str) -> None:
        """Load a checkpoint, or go back to one."""
        from fakehost import memory_management, model
        from modules import shared

        memory_management.unload_all_models()
        kinds = {"sd15": "StableDiffusion", "sdxl": "StableDiffusionXL", "flux": "Flux"}
        if family not in self.models:
            self.models[family] = getattr(model, kinds[family])()
        shared.sd_model = self.models[family]

    def run(self, args: list[Any] | None = None, *, img2img: bool = False, **body: Any) -> Result:
        from modules import processing

        p = self._processing(args, img2img, body)
        return self._process(lambda made: made.scripts.run(made) or processing.process_images(made), p)

    def cells(self, args: list[Any], seeds: list[int]) -> list[Result]:
        """As the X/Y/Z plot does it: shallow copies of one object, a field changed."""
        from modules import processing

        p = self._processing(args, False, {})
        results = []
        for seed in seeds:
            cell = processing.shallow_copy(p)
            cell.seed = seed
            results.append(self._process(processing.process_images, cell))
        return results

    def loop(self, args: list[Any], count: int, **body: Any) -> list[Result]:
        """As loopback does it: one object again and again, its first picture as the next init picture."""
        from modules import processing

        p = self._processing(args, True, body)
        results = []
        for _ in range(count):
            p.extra_result_images = []
            results.append(self._process(processing.process_images, p))
            p.init_images = [results[-1].images[0]]
        return results

    def _processing(self, args: list[Any] | None, img2img: bool, body: dict[str, Any]) -> Any:
        from modules import processing, scripts

        script = self.script_class()
        script.args_from, script.args_to = 1, 1 + (len(FIELDS) if args is None else len(args))
        body = {"width": self.side, "height": self.side, **body}
        saved, extra = body.pop("save_images", False), body.pop("guidance", None)
        others, selectable = body.pop("others", ()), body.pop("script", None)
        kind = processing.StableDiffusionProcessingImg2Img if img2img else processing.StableDiffusionProcessingTxt2Img
        if body.get("enable_hr"):
            body["enable_hr"] = "latent" if body.pop("hr_upscaler").startswith("Latent") else "pixels"
        p = kind(**body, do_not_save_samples=not saved, outpath_samples=str(self.outputs))
        p.script_args = [int(selectable is not None), *([False] + [None] * (len(FIELDS) - 1) if args is None else args)]
        every = [script, *([_Guidance(extra)] if extra else []), *others]
        p.scripts = scripts.ScriptRunner(every, [selectable] if selectable else [])
        return p

    def _process(self, process: Any, p: Any) -> Result:
        from modules import errors

        errors.reports.clear()
        try:
            processed = process(p)
        except Exception as error:  # noqa: BLE001
            return Result(error=error, reports=list(errors.reports))
        images = [_answered(image) for image in [*processed.images, *processed.extra_images]]
        info = {**json.loads(processed.js()), "comments": processed.comments}
        return Result(images, None, list(errors.reports), processed.infotexts[0], info)

    def saved(self) -> list[Path]:
        return sorted(self.outputs.glob("*"), key=lambda path: path.stat().st_mtime_ns)

    def option(self, name: str, value: Any) -> None:
        from modules import shared

        setattr(shared.opts, name, value)


def _answered(image: Image.Image) -> Image.Image:
    """The picture as the API's answer holds it, with what the page's gallery knows about it."""
    from modules.api import api

    answer = Image.open(io.BytesIO(base64.b64decode(api.encode_pil_to_base64(image))))
    answer.load()
    vars(answer).update({name: value for name, value in vars(image).items() if name == "already_saved_as"})
    return answer


def _adapted(q: Any, k: Any, v: Any, extra: dict[str, Any], *, share: float) -> Any:
    """As IP-Adapter: attention, and more in the rows that follow the prompt, by their order in the batch."""
    from fakehost.attention import attention_function

    rows = len(q) // len(extra["cond_or_uncond"])
    marks = torch.tensor(extra["cond_or_uncond"]).repeat_interleave(rows)[:, None, None]
    return attention_function(q, k, v, extra["n_heads"]) + share * (1 - marks)


class _Guidance:
    """What attention guidance and token merging do to a UNet."""

    args_from = args_to = 0

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def process_before_every_sampling(self, p: Any, **_: Any) -> None:
        from fakehost.sampling import calc_cond_uncond_batch

        unet = p.sd_model.forge_objects.unet.clone()
        options = unet.model_options["transformer_options"]
        if self.kind == "sag":
            options["patches_replace"] = {"attn1": {("middle", 0): lambda q, k, v, extra: v}}
        elif self.kind in ("itself", "adapter"):
            attend = partial(_adapted, share=float(self.kind == "adapter"))
            blocks = [("input", 1), ("middle", 0), ("output", 0)]
            options["patches_replace"] = {kind: dict.fromkeys(blocks, attend) for kind in ("attn1", "attn2")}
        elif self.kind == "tome":
            options["patches"] = {"attn1_patch": [lambda n, context, value, extra: (n, context, value)]}
        else:

            def guide(args: dict[str, Any]) -> Any:
                inner = {**args["model_options"]["transformer_options"]}
                inner["patches_replace"] = {"attn1": {("middle", 0): lambda q, k, v, extra: v}}
                changed = {**args["model_options"], "transformer_options": inner}
                degraded, _ = calc_cond_uncond_batch(
                    args["model"], args["cond"], None, args["input"], args["sigma"], changed
                )
                return args["denoised"] + (args["cond_denoised"] - degraded) * 3.0

            unet.model_options.setdefault("sampler_post_cfg_function", []).append(guide)
        p.sd_model.forge_objects.unet = unet


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _with_texts(image: Image.Image) -> str:
    """PNG in base64, with the picture's texts in chunks."""
    chunks, buffer = PngInfo(), io.BytesIO()
    for key, value in image.info.items():
        chunks.add_text(key, value)
    image.save(buffer, format="PNG", pnginfo=chunks)
    return base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _upscaling(chosen: Image.Image | None) -> Iterator[None]:
    """As the gallery's upscale button starts a run of the real host."""
    from modules.api import api

    own = api.process_images

    def process(p: Any) -> Any:
        p.firstpass_image, p.txt2img_upscale = chosen, True
        return own(p)

    if chosen is not None:
        api.process_images = process
    try:
        yield
    finally:
        api.process_images = own


@contextmanager
def _interrupted_at(step: int | None) -> Iterator[None]:
    """Interrupt the real host once it has done this many steps, as its button does."""
    from modules import shared

    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if shared.state.job and shared.state.sampling_step >= step:
                shared.state.interrupt()
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    if step is not None:
        watcher.start()
    try:
        yield
    finally:
        done.set()


class RealForge:
    """The script in a real host in this process, through the functions behind its API; which host is found out.

    The checkout needs checkpoints random_sd15.safetensors (and random_sdxl.safetensors) and the layer files; its Python
    packages have to be installed for the Python that runs the tests.
    """

    is_real = True
    side = 64

    def __init__(self, forge: Path, folder: Path) -> None:
        self.forge, self.name = forge, starting.host_name(forge)
        second = folder / "checkpoints"
        second.mkdir(parents=True)
        (second / SECOND).symlink_to(forge / "models" / "Stable-diffusion" / "random_sd15.safetensors")
        extensions = folder / "extensions"
        extensions.mkdir(parents=True)
        (extensions / "layerdiffusion").symlink_to(ROOT)
        quiet = {"live_previews_enable": False, "return_grid": False, "grid_save": False}
        every = [f"{tab}{kind}" for tab in ("", "txt2img_", "img2img_") for kind in ("samples", "grids")]
        for kind in every:
            quiet[f"outdir_{kind}"] = str(folder / "outputs")
        quiet["postprocessing_enable_in_main_ui"] = ["Upscale"]
        quiet["outdir_save"] = str(folder / "chosen")
        (folder / "config.json").write_text(json.dumps({**quiet, "save_to_dirs": False}))
        self.outputs = folder / "outputs"
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.chdir(forge)
        sys.path.insert(0, str(forge))
        sys.argv = ["launch.py", *starting.flags(forge, folder, second)]
        import launch  # noqa: F401
        import webui
        from fastapi import FastAPI
        from modules import errors, script_callbacks

        if self.name == "Forge Neo":
            starting.take_sizes_as_asked()
        self.api = webui.create_api(FastAPI())
        script_callbacks.before_ui_callback()
        script_callbacks.app_started_callback(None, self.api.app)
        self.reports: list[str] = []
        errors.report = lambda message, **_: self.reports.append(message)
        self.options: dict[str, Any] = {
            "samples_format": "png",
            "stealth_pnginfo_option": "Alpha",
            # What single tests change: the host's API does not put it back.
            "CLIP_stop_at_last_layers": 1,
            "return_grid": False,
            "grid_save": False,
            "n_rows": -1,
        }

    @contextmanager
    def _beside(self, others: Sequence[Any], img2img: bool) -> Iterator[None]:
        """With other people's scripts installed."""
        from modules import scripts

        runner = scripts.scripts_img2img if img2img else scripts.scripts_txt2img
        for other in others:
            kind = type(other)
            other.__class__ = type(
                kind.__name__, (kind, scripts.Script), {"filename": __file__, "title": lambda _: "other"}
            )
            runner.alwayson_scripts.append(other)
        try:
            yield
        finally:
            if others:
                del runner.alwayson_scripts[-len(others) :]
            getattr(runner, "callback_map", {}).clear()  # classic keeps none

    def second_checkpoint(self) -> str:
        """The same weights under another name, which the host loads anew."""
        return SECOND

    def pixel_upscaler(self) -> str:
        """An upscaler of pixels that the host has."""
        from modules import shared

        return "Lanczos" if any(one.name == "Lanczos" for one in shared.sd_upscalers) else self.add_upscaler()

    def extras(
        self, images: Sequence[Image.Image], *, batch: bool = False, **body: Any
    ) -> tuple[list[Image.Image], str]:
        """Through the API of the Extras tab: what comes out, and what the page would say below it."""
        from modules.api import models

        starting.skip_without_upscalers(body.get("upscaler_1"), body.get("upscaler_2"))
        texts = [_with_texts(image) for image in images]
        if batch:
            files = [models.FileData(data=text, name=f"{number}.png") for number, text in enumerate(texts)]
            answer = self.api.extras_batch_images_api(models.ExtrasBatchImagesRequest(imageList=files, **body))
            found = answer.images
        else:
            answer = self.api.extras_single_image_api(models.ExtrasSingleImageRequest(image=texts[0], **body))
            found = [answer.image]
        return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found], answer.html_info

    def add_upscaler(self) -> str:
        """A neural upscaler's name in the host's list."""
        from modules import shared
        from modules.esrgan_model import UpscalerESRGAN

        from tests.hosts.forge.host_files import write_upscaler

        folder = self.outputs.parent / "ESRGAN"
        if not folder.is_dir():
            folder.mkdir()
            write_upscaler(folder / "repeats_4x.pth")
            shared.sd_upscalers += UpscalerESRGAN(str(folder)).scalers
        return "repeats_4x"

    def control_model(self, kind: str) -> str:
        """A control model's name in the host's list. kind: of CONTROL_FILES."""
        global_state = pytest.importorskip("lib_controlnet.global_state")
        from modules import shared

        from tests.hosts.forge import host_files

        folder = self.outputs.parent / "ControlNet"
        folder.mkdir(exist_ok=True)
        path = folder / CONTROL_FILES[kind]
        if not path.exists():
            checkpoint = self.forge / "models" / "Stable-diffusion" / "random_sd15.safetensors"
            getattr(host_files, f"write_{kind}")(checkpoint, path)
        shared.opts.data["control_net_models_path"] = str(folder)
        global_state.update_controlnet_filenames()
        found = next((name for name in global_state.controlnet_names if name.startswith(path.stem)), None)
        return found or pytest.skip(f"this host knows no {kind}")

    def use(self, family: str) -> None:
        name = f"random_{family}.safetensors"
        if not (self.forge / "models" / "Stable-diffusion" / name).is_file():
            pytest.skip(f"{name} is not there")
        self.options["sd_model_checkpoint"] = name

    def run(self, args: list[Any] | None = None, *, img2img: bool = False, **body: Any) -> Result:
        from modules import scripts
        from modules.api import models

        body = {"prompt": "an apple", "steps": 2, "cfg_scale": 2, "seed": 1, "sampler_name": "Euler", **body}
        body = {"width": self.side, "height": self.side, **body}
        body["alwayson_scripts"] = {} if args is None else {"layerdiffusion": {"args": args}}
        others, first = body.pop("others", ()), body.pop("firstpass_image", None)
        step = body.pop("interrupt_at", None)
        self._translate(body)
        starting.skip_what_is_not_there(body, scripts.scripts_img2img if img2img else scripts.scripts_txt2img)
        kind = models.StableDiffusionImg2ImgProcessingAPI if img2img else models.StableDiffusionTxt2ImgProcessingAPI
        self.reports.clear()
        try:
            with self._beside(others, img2img), _upscaling(first), _interrupted_at(step):
                request = kind(**starting.known_fields(body, kind))
                answer = (self.api.img2imgapi if img2img else self.api.text2imgapi)(request)
        except Exception as error:  # noqa: BLE001
            traceback.print_exception(error)  # shown where a test fails
            return Result(error=error, reports=list(self.reports))
        images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer.images]
        info = json.loads(answer.info)
        return Result(images, None, list(self.reports), info["infotexts"][0], info)

    def _translate(self, body: dict[str, Any]) -> None:
        body["override_settings"] = {**self.options, **body.get("override_settings", {})}
        if "also" in body:
            title, values = body.pop("also")
            body["alwayson_scripts"][title] = {"args": values}
        if "script" in body:
            body["script_name"], body["script_args"] = body.pop("script")
        body["override_settings"] = starting.known_options(body["override_settings"])
        body["override_settings_restore_afterwards"] = False
        guidance = body.pop("guidance", None)
        if guidance == "tome":
            body["override_settings"] |= starting.known_options({"token_merging_ratio": 0.5})
        elif guidance:
            title, values = GUIDANCE[guidance]
            body["alwayson_scripts"][title] = {"args": values}
        else:
            body["override_settings"] |= starting.known_options({"token_merging_ratio": 0.0})
        if body.get("enable_hr"):
            if body["hr_upscaler"] == host_scripts.NEURAL:
                body["hr_upscaler"] = self.add_upscaler()
            # The host's API has no defaults for these that its own second pass can use.
            body.update(hr_additional_modules=["Use same choices"], denoising_strength=0.75, hr_cfg=2)
            body.setdefault("hr_scale", 1.5)
        if "init_images" in body:
            body["init_images"] = [encoded(image) for image in body["init_images"]]
            body.update(inpainting_fill=1, mask_blur=0)
        if "mask" in body:
            body["mask"] = encoded(body["mask"])

    def cells(self, args: list[Any], seeds: list[int]) -> list[Result]:
        result = self.run(args, steps=2, script=host_scripts.plot(1, texts=",".join(map(str, seeds))))
        pictures = [image for image in result.images if image.size == (self.side, self.side)]
        return [Result([image], result.error, result.reports) for image in pictures]

    def loop(self, args: list[Any], count: int, **body: Any) -> list[Result]:
        result = self.run(
            args, img2img=True, script_name="loopback", script_args=[count, 0.5, "Linear", "None"], **body
        )
        return [Result([image], result.error, result.reports) for image in result.images[:count]]

    def saved(self) -> list[Path]:
        return sorted(self.outputs.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)

    def option(self, name: str, value: Any) -> None:
        self.options[name] = value
