"""One call of the host's `process_images` with a method enabled, from its first hook to its last.

Each call gets its own run, also where the host passes shallow copies of one processing object (X/Y/Z plot) or the same
object again (loopback), so no picture of another call can get in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.hosts.forge import control, options, saving, xyz
from lib_layerdiffusion.hosts.forge.host import ForgeHandle, ForgeHost, Prompts, loaded_family
from lib_layerdiffusion.hosts.forge.init_images import InitPictures
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.hosts.forge.prompts import layer_conditioning
from lib_layerdiffusion.hosts.forge.results import RunResults
from lib_layerdiffusion.hosts.forge.sampled import Sampled
from lib_layerdiffusion.images.arithmetic import over_background, to_float, to_uint8
from lib_layerdiffusion.images.edges import clean_as_set
from lib_layerdiffusion.images.layerfile import check_ending
from lib_layerdiffusion.images.opacity import opaque_warning
from lib_layerdiffusion.images.reading import read_picture
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.infotext import to_infotext
from lib_layerdiffusion.settings.parsing import LayerSettings
from lib_layerdiffusion.unet.injection import LayerWeights, plan_injection

ATTRIBUTE = "layerdiffusion_run"


def begin(p: Any, args: Sequence[object], models: ForgeModels) -> LayerRun | None:
    """Start a run on `p` where the settings say so; whatever an earlier one left on `p` goes first."""
    control.restore(p)
    vars(p).pop(ATTRIBUTE, None)
    own_keys = {row.infotext for row in FIELDS}
    p.extra_generation_params = {key: v for key, v in p.extra_generation_params.items() if key not in own_keys}
    settings = _read(p, models.earlier.inserted(xyz.with_axis_values(p, args)))
    if not settings.enabled:
        return None
    run = LayerRun(p, settings, models)
    setattr(p, ATTRIBUTE, run)
    run.complete_batch()
    return run


def _read(p: Any, args: Sequence[object]) -> LayerSettings:
    """The settings; a short method name, which families share, means the one of the checkpoint that is loaded."""
    try:
        return LayerSettings.from_args(args, defaults=options.defaults())
    except SettingsError:
        family = loaded_family(p.sd_model)
        with suppress(SettingsError):
            return LayerSettings.from_args(args, family=family, defaults=options.defaults())
        raise


def current(p: Any) -> LayerRun | None:
    """The run on `p`, None where LayerDiffusion is off or `p` is a copy of the object that it belongs to."""
    run = vars(p).get(ATTRIBUTE)
    return run if isinstance(run, LayerRun) and run.p is p else None


class LayerRun:
    """State of one run. Methods are called by the script's hooks of the same meaning, in the order of this class."""

    def __init__(self, p: Any, settings: LayerSettings, models: ForgeModels) -> None:
        self.p = p
        self.settings = settings
        self.method = settings.method
        self.models = models
        self._weights: LayerWeights | None = None
        self._host = ForgeHost(p, models)
        self._handle: ForgeHandle | None = None
        self._init_pictures: InitPictures | None = None
        self._conditioning: dict[tuple[int, bool], Prompts | None] = {}
        self._sampled = Sampled(p, models.backend)
        self._results = RunResults(settings)

    def complete_batch(self) -> None:
        """Round the batch up to whole pictures, since a picture of this method takes several items.

        Raises:
            SettingsError: a list of prompts fixes the number of items, and it does not fit.
            InputError: so do several init pictures.
        """
        p, frames = self.p, self.method.frame_count
        size = self.method.padded_batch(p.batch_size)
        if isinstance(p.prompt, list) and len(p.prompt) % size:
            raise SettingsError(
                f'"{self.method.label}" needs {frames} pictures of each prompt: use a single prompt, or a number of '
                f"prompts that is a multiple of {size}."
            )
        given = len(getattr(p, "init_images", None) or ())
        if given > 1 and given % frames:
            raise InputError(
                f'"{self.method.label}" makes {frames} pictures at once and {given} init pictures are given: '
                f"give one, or a multiple of {frames}."
            )
        if size != p.batch_size:
            p.comment(
                f"LayerDiffusion: this method makes {frames} pictures at once, "
                f"so batch size {p.batch_size} became {size}."
            )
            p.batch_size = size

    def check(self) -> None:
        """Everything that can be wrong with the request, found before anything is sampled.

        Raises:
            LayerDiffusionError: model, pictures or weight files do not fit.
        """
        self.settings.validate_for(self._host.family())
        self.settings.condition_pictures()
        if options.layer_file():
            check_ending(options.layer_file())
        self._weights = self._host.fitting_weights(self.method)
        if self.method.has_alpha:
            saving.keep_alpha()
            given = getattr(self.p, "init_images", None)
            self.models.load_transparency(self.method.family, encoder=bool(given))
            if given:
                self._watch_init(given)
        self.p.extra_generation_params.update(to_infotext(self.settings))

    def _watch_init(self, given: Sequence[Any]) -> None:
        pictures = [picture for image in given if (picture := read_picture(image, "init")) is not None]
        if len(pictures) != len(given):
            raise InputError("An init picture is empty: choose it again.")
        own = self._init_pictures = InitPictures(self.p, pictures, self.method.is_rgba)

        def init(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with own.regulated_vae():
                return original(*args, **kwargs)

        control.Replacement(self.p, "init", init)

    def encode_init_pictures(self, crop_region: tuple[int, int, int, int] | None) -> None:
        """Prepare the init pictures; the host encodes them next."""
        if self._init_pictures is not None:
            self._init_pictures.prepare(crop_region, partial(self.models.encode_offset, self.method.family))

    def patch_unet(self, noise: Tensor) -> None:
        """Put the method into the UNet that is about to sample `noise` [B, 4, h, w]; it may be called again.

        Raises:
            LayerDiffusionError: the model changed to one that the method is not made for, or the method does not fit.
        """
        self._sampled.watch(self.p.sampler)
        self.settings.validate_for(self._host.family())
        if self._weights is None:
            return
        injection = plan_injection(self.settings, self._weights, noise.shape[2] * 8, noise.shape[3] * 8)
        if not injection.is_plain:
            self._handle = self._host.inject(injection, self._layer_conditioning())

    def _layer_conditioning(self) -> Prompts | None:
        key = (self.p.iteration, self.p.is_hr_pass)
        if key not in self._conditioning:
            self._conditioning[key] = layer_conditioning(self.p, self.settings)
        return self._conditioning[key]

    def keep_samples(self, samples: Any) -> None:
        """Take the sampled batch [B, 4, h, w] in the sampler's scale, unless it is decoded already.

        Raises:
            HostError: the host sampled without what it was given.
        """
        if self._handle is not None:
            self._handle.check_merged()
        self._sampled.take_latents(samples)

    def keep_pixels(self, pixels: Tensor) -> None:
        """Take the batch [B, 3, H, W] in [0, 1] as the VAE decoded it."""
        self._sampled.take_pixels(pixels)

    def replace(self, picture: Any, index: int) -> None:
        """Put the layer in the place of `picture.image` where its frame has alpha.

        index: in the batch. Previews and the picture before decoding come behind all pictures.
        """
        if self.method.is_rgba(index):
            self._decode(picture, index)
        self._results.add_layer(picture.image, self.p.iteration, index)

    def _decode(self, picture: Any, index: int) -> None:
        image = picture.image
        pixels, latent = self._sampled.decoder_input(image, index, self.settings.latent_scale)
        decoded = self.models.decode(self.method.family, pixels, latent, self.settings.decode_passes)
        exact = decoded[0].movedim(0, -1).numpy()
        rounded = to_uint8(exact)
        layer = clean_as_set(rounded, self.settings)
        if self._init_pictures is not None:
            layer = self._init_pictures.blend(layer, index)
        warning = opaque_warning(layer)
        if warning is not None:
            self.p.comment(warning)
        result = saving.to_image(layer)
        if self.settings.preview:
            shown = exact if np.array_equal(layer, rounded) else to_float(layer)
            self._results.add_preview(saving.to_image(over_background(shown, options.preview_background())), index)
        if self.settings.output_origin:
            self._results.add_origin(image, index)
        self._results.saved_as(result, saving.save_layer(self.p, result, index))
        picture.image = result

    def finish(self, processed: Any) -> None:
        """Hand over previews and leave the host's UNet as it was."""
        try:
            self._results.hand_over(processed)
            self._results.describe(processed, self.models.earlier)
            self._save_layer_files(processed)
        finally:
            self.release()

    def _save_layer_files(self, processed: Any) -> None:
        """As the settings page wants it; the pictures are there and stay, also where this fails."""
        try:
            if options.layer_file():
                self._results.save_layers(options.layer_file())
        except LayerDiffusionError as error:
            processed.comments = f"{processed.comments}{error}\n"

    def release(self) -> None:
        """Give back what the run holds; twice is harmless."""
        control.restore(self.p)
        if self._handle is not None:
            self._handle.release()
        self._host.forget()
        self._sampled.forget()
        self._handle = None
