"""The main job, on a host that it is handed: a prompt in, layers out."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from lib_layerdiffusion.engine.chains import TO_BACKGROUND, TO_FOREGROUND, Words, run_chain
from lib_layerdiffusion.engine.choices import Choices, lists_choices
from lib_layerdiffusion.engine.host import PromptEmbedding, SamplingHost
from lib_layerdiffusion.engine.latents import check_latent
from lib_layerdiffusion.engine.request import PictureRequest, Progress, build_request, check_known_size, check_size
from lib_layerdiffusion.engine.results import LayerPicture, Result
from lib_layerdiffusion.engine.vocabulary import unknown_note, unknown_words
from lib_layerdiffusion.errors import InputError, ModelError, within_memory
from lib_layerdiffusion.images.arithmetic import preview
from lib_layerdiffusion.images.edges import clean_as_set
from lib_layerdiffusion.images.files import load_picture
from lib_layerdiffusion.images.opacity import opaque_warning
from lib_layerdiffusion.images.outputs import apart, trimmed
from lib_layerdiffusion.images.start import outside_kept, resized_mask, resized_rgba
from lib_layerdiffusion.methods import METHODS, Family, Layer, LayerMethod
from lib_layerdiffusion.networks.numbers import check_sampled
from lib_layerdiffusion.places import compiled_folder
from lib_layerdiffusion.settings.fields import DEFAULT_METHOD, PASS_COUNTS
from lib_layerdiffusion.settings.kinds import find_method, one_of
from lib_layerdiffusion.settings.parsing import LatentScale, LayerSettings
from lib_layerdiffusion.transparency import LatentTransparency, rgba_arrays
from lib_layerdiffusion.unet.injection import additional_prompts, layer_prompt, plan_injection
from lib_layerdiffusion.version import __version__
from lib_layerdiffusion.weights import WeightStore

_PASSES = one_of(*PASS_COUNTS)


class Engine:
    """One model, and everything that makes layers with it. Safe to use from several threads: runs wait their turn.

    compiled: whether the transparency decoder is compiled.
    """

    def __init__(self, host: SamplingHost, store: WeightStore, *, compiled: bool = False) -> None:
        self.host, self.store, self.compiled = host, store, compiled
        self._lock = threading.RLock()  # a progress call may ask for another picture

    def unknown_words(self, *prompts: str) -> tuple[str, ...]:
        """Words that the model does not know; a model that was not made from a list of words knows all."""
        return unknown_words(prompts, self.host.words)

    @property
    def methods(self) -> tuple[LayerMethod, ...]:
        """The methods that the loaded model can run, in table order."""
        return tuple(row for row in METHODS.values() if row.family in self.host.families)

    def find_method(self, name: str | LayerMethod | None) -> LayerMethod:
        """The method that a short name or a dropdown label means for the loaded model; None means "transparent".

        Raises:
            SettingsError: nothing is called so. ModelError: it is for another family.
        """
        name = DEFAULT_METHOD.name if name is None else name
        if not isinstance(name, str):
            method = find_method(name)
        else:
            own = [row for family in self.host.families for row in METHODS.of_family(family)]
            rows = [row for row in own if row.name == name.strip()]
            method = rows[0] if rows else METHODS.find(name, None if name in METHODS else self._only_family())
        self.host.check(method.family, method.label)
        return method

    def _only_family(self) -> Family | None:
        return self.host.families[0] if len(self.host.families) == 1 else None

    @lists_choices
    def generate(
        self,
        prompt: str,
        *,
        method: str | LayerMethod | None = "transparent",
        seed: int | None = None,
        size: tuple[int, int] | str | int | None = None,
        batch: int = 1,
        progress: Progress | None = None,
        **choices: Unpack[Choices],
    ) -> Result:
        """Make pictures in layers.

        method: short name ("transparent", "fg-to-blend", ...) or dropdown label; the model's family picks the row.
        seed: of the first batch item, random if None. size: (width, height), multiples of 8; default the model's own,
        or the init picture's. batch: pictures, each with all its layers. progress: called with (stage, done, all) after
        every step of the sampler and every pass of a decoder.
        choices: listed below.

        Raises:
            LayerDiffusionError: something of this cannot be used; one sentence says what to do. The pipeline is as it
                was before.
        """
        row = self.find_method(method)
        request = build_request(prompt, row, choices, self.host, seed=seed, size=size, batch=batch, progress=progress)
        return self.run(request)

    def run(self, request: PictureRequest) -> Result:
        """Carry out a request.

        Raises:
            LayerDiffusionError: as `generate`.
        """
        with self._turn(f"a picture of {request.width}x{request.height}"):
            return self._run(request)

    @contextmanager
    def _turn(self, what: str) -> Generator[None, None, None]:
        """The model for one at a time; others wait. What goes wrong with memory or numbers is said in a sentence."""
        with self._lock, torch.no_grad(), within_memory(what):
            try:
                yield
            except ModelError as error:
                broken = self.host.broken_part()
                if not broken:
                    raise
                raise ModelError(f"The checkpoint is broken ({broken}): get it again or choose another.") from error

    def _run(self, request: PictureRequest) -> Result:
        settings, method = request.settings, request.settings.method
        self.host.check(method.family, method.label)
        check_known_size(request.width, request.height, self.host.sizes)
        timings: dict[str, float] = {}
        with _timed(timings, "load"):
            weights = self.store.layer(method)
            networks = self._networks(settings, with_encoder=request.init is not None and method.has_alpha)
        with self.host.sampler(request.sampler) as sampler:
            with _timed(timings, "prepare"):
                injection = plan_injection(settings, weights, request.height, request.width)
                prompt, negative, frames = self._prompts(request)
                start, mask = self._start(request, networks)
            with self.host.injected(injection, frames, len(request.seeds)), _timed(timings, "sample"):
                latents = self.host.sample(request, prompt, negative, start, mask)
        check_sampled(latents)
        with _timed(timings, "decode"):
            finished = self._decode(request, latents, networks)
        infotexts = [
            request.infotext(i, self.host.name, sampler, f"layerdiffusion {__version__}") for i in range(request.batch)
        ]
        images = tuple(self._picture(request, i, finished, infotexts[i]) for i in range(request.batch))
        return Result(images, settings, request.seed, timings, self.host.source)

    def _networks(self, settings: LayerSettings, *, with_encoder: bool) -> LatentTransparency:
        method, exact, decoder = settings.method, settings.latent_scale.reproduces, None
        if method.has_alpha:
            decoder = self.host.placed(self.store.decoder(method.family, exact=exact), exact=exact)
        encoder = self.host.placed(self.store.encoder(method.family)) if with_encoder else None
        return LatentTransparency(
            decoder=decoder, encoder=encoder, compiled_in=compiled_folder() if self.compiled else None
        )

    def _prompts(self, request: PictureRequest) -> tuple[PromptEmbedding, PromptEmbedding, PromptEmbedding | None]:
        additional = additional_prompts(request.settings)
        own = [layer_prompt(text, request.prompt) for text in additional] if any(additional) else []
        return self.host.encode_prompts(request.prompt, request.negative, own)

    def _start(self, request: PictureRequest, networks: LatentTransparency) -> tuple[Tensor | None, Tensor | None]:
        """Latents of the init picture for every batch item, alpha hidden in those of RGBA frames; and the mask."""
        if request.init is None:
            return None, None
        method = request.settings.method
        plain = self.host.encode_start(request.init, None)
        hidden = self.host.encode_start(request.init, networks) if method.has_alpha else plain
        rows = [hidden if method.is_rgba(index) else plain for index in range(len(request.seeds))]
        mask = None
        if request.mask is not None:
            small = resized_mask(request.mask, request.height // 8, request.width // 8)
            mask = torch.from_numpy(np.where(small >= 0.5, 1.0, 0.0).astype(np.float32))[None, None]
        return torch.cat(rows), mask

    def _decode(
        self, request: PictureRequest, latents: Tensor, networks: LatentTransparency
    ) -> list[dict[str, np.ndarray[Any, Any]]]:
        """For every batch item its "picture" uint8 [H, W, 3 or 4], and where it has alpha the "origin" [H, W, 3]."""
        finished: list[dict[str, np.ndarray[Any, Any]]] = []
        for index in range(len(latents)):
            item = self._decode_item(request, index, latents[index : index + 1], networks)
            if request.mask is not None and request.init is not None:
                mask = resized_mask(request.mask, request.height, request.width)
                item["picture"] = outside_kept(item["picture"], request.init, mask)
            finished.append(item)
        return finished

    def _decode_item(
        self, request: PictureRequest, index: int, latent: Tensor, networks: LatentTransparency
    ) -> dict[str, np.ndarray[Any, Any]]:
        """One batch item, with progress after the VAE's pass and after each of the transparency decoder's."""
        settings = request.settings
        total = sum(map(request.decode_passes_of, range(len(request.seeds))))
        before = sum(map(request.decode_passes_of, range(index)))

        def report(done: int, _all: int) -> None:
            if request.progress is not None:
                request.progress("decode", before + 1 + done, total)

        pixels = self.host.decode_latents(latent)
        rounded = (pixels * 255).round()
        picture = rounded[0].permute(1, 2, 0).byte().cpu().numpy()
        report(0, 0)
        if not settings.method.is_rgba(index):
            return {"picture": picture}
        scaled = latent.float() / self.host.scaling
        if settings.latent_scale is LatentScale.SAMPLER:
            pixels, scaled = rounded / 255, latent.float()
        decoded = networks.decode(pixels, scaled, passes=settings.decode_passes, progress=report)
        return {"picture": clean_as_set(rgba_arrays(decoded)[0], settings), "origin": picture}

    def _picture(
        self, request: PictureRequest, index: int, finished: list[dict[str, np.ndarray[Any, Any]]], infotext: str
    ) -> LayerPicture:
        method, settings = request.settings.method, request.settings
        first = index * method.frame_count
        items = {layer: finished[first + frame] for frame, layer in enumerate(method.frames)}
        arrays = {layer: item["picture"] for layer, item in items.items()}
        alphas = {layer: array for layer, array in arrays.items() if array.shape[2] == 4}
        whole = dict(alphas) if settings.trim else {}
        alphas = {layer: trimmed(array)[0] for layer, array in alphas.items()} if settings.trim else alphas
        split = {layer: apart(array) for layer, array in alphas.items()} if settings.rgb_and_mask else {}
        origins = {layer: items[layer]["origin"] for layer in alphas if settings.output_origin}
        previews = {layer: preview(array) for layer, array in alphas.items() if settings.preview}
        unknown = self.unknown_words(request.prompt, *settings.prompts.values())
        warnings = (
            unknown_note(unknown),
            *settings.input_notes(),
            *(opaque_warning(array) for array in alphas.values()),
        )
        return LayerPicture(
            layers=_images({**arrays, **alphas}),
            seed=request.seeds[first],
            infotext=infotext,
            previews=_images(previews),
            origins=_images(origins),
            colours=_images({layer: colour for layer, (colour, _) in split.items()}),
            masks=_images({layer: mask for layer, (_, mask) in split.items()}),
            whole=_images(whole),
            notes=tuple(warning for warning in warnings if warning),
        )

    def extract_foreground(self, *, background: object, prompt: str, scene: str = "", **arguments: Any) -> Result:
        """Put something in front of a background and take it off again: background -> blended -> foreground.

        prompt: who or what is put there. scene: what the background shows, said where both are seen.
        arguments: of `generate`; pictures are (foreground RGBA, background as given, blended).

        Raises:
            LayerDiffusionError: as `generate`.
        """
        return run_chain(self.generate, self.methods, TO_FOREGROUND, background, Words(prompt, scene), arguments)

    def extract_background(self, *, foreground: object, prompt: str, scene: str = "", **arguments: Any) -> Result:
        """Put a foreground into a scene and look behind it: foreground -> blended -> background.

        prompt: what the foreground shows, or the scene where none is given apart. scene: what it is put into, alone in
        the second step. arguments: of `generate`; pictures are (foreground as given, background, blended).

        Raises:
            LayerDiffusionError: as `generate`.
        """
        return run_chain(self.generate, self.methods, TO_BACKGROUND, foreground, Words(prompt, scene), arguments)

    def encode(self, picture: object) -> Tensor:
        """Latent [1, 4, H/8, W/8] of an RGBA picture, in the VAE's scale, its alpha hidden inside.

        Raises:
            LayerDiffusionError: the picture or the weights cannot be used.
        """
        rgba = load_picture(picture, "input")
        height, width = rgba.shape[:2]
        check_size(width - width % 8, height - height % 8)
        rgba = resized_rgba(rgba, height - height % 8, width - width % 8)
        with self._turn("this picture"):
            encoder = self.host.placed(self.store.encoder(self.host.family()))
            return self.host.encode_start(rgba, LatentTransparency(encoder=encoder)) / self.host.scaling

    def decode(self, latent: Tensor, passes: int | None = None, picture: object = None) -> Image.Image:
        """RGBA picture of a latent [1, 4, H/8, W/8] or [4, H/8, W/8] in the VAE's scale, of any floating-point type.

        passes: 8, 4, 2 or 1; default the model's. picture: what another program decoded the latent to, a path, Pillow
        image, array or bytes; without it this model's VAE decodes it.

        Raises:
            LayerDiffusionError: the latent or the weights cannot be used.
        """
        given = self.host.decode_passes if passes is None else passes
        whole, count = check_latent(latent), int(cast("int", _PASSES.read("passes", given)))
        with self._turn("this latent"):
            decoder = self.host.placed(self.store.decoder(self.host.family()))
            own = picture is None
            pixels = self.host.decode_latents(whole * self.host.scaling) if own else _pixels(picture, whole)
            decoded = LatentTransparency(decoder=decoder).decode(pixels, whole, passes=count)
        return Image.fromarray(rgba_arrays(decoded)[0])


def _pixels(picture: object, latent: Tensor) -> Tensor:
    """A picture that was decoded elsewhere, [1, 3, H, W] in [0, 1], made sure to be that of the latent."""
    rgba = load_picture(picture, "decoded")
    height, width = rgba.shape[:2]
    if (-(-height // 8), -(-width // 8)) != tuple(latent.shape[-2:]):
        raise InputError(
            f"The decoded picture is {width}x{height} and the latent that of {8 * latent.shape[-1]}x"
            f"{8 * latent.shape[-2]} pixels: give the picture that was decoded from this latent."
        )
    return torch.from_numpy(rgba[..., :3].astype(np.float32) / 255.0).permute(2, 0, 1)[None].to(latent.device)


def _images(arrays: Mapping[Layer, np.ndarray[Any, Any]]) -> dict[Layer, Image.Image]:
    return {layer: Image.fromarray(array) for layer, array in arrays.items()}


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Generator[None, None, None]:
    began = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - began
