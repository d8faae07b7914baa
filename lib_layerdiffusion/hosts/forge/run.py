"""One call of the host's `process_images` with a method enabled, from its first hook to its last.

Each call gets its own run, also where the host passes shallow copies of one processing object (X/Y/Z plot) or the same
object again (loopback), so no picture of another call can get in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.hosts.forge import batch, callers, control, needs, options, saving, upscale_button, webui, xyz
from lib_layerdiffusion.hosts.forge.family import loaded_family
from lib_layerdiffusion.hosts.forge.host import ForgeHandle, ForgeHost, Prompts
from lib_layerdiffusion.hosts.forge.init_images import InitPictures
from lib_layerdiffusion.hosts.forge.models import ForgeModels
from lib_layerdiffusion.hosts.forge.prompts import layer_conditioning
from lib_layerdiffusion.hosts.forge.results import RunResults
from lib_layerdiffusion.hosts.forge.sampled import DecoderInput, Sampled
from lib_layerdiffusion.images.arithmetic import PictureF, over_background, to_float, to_uint8
from lib_layerdiffusion.images.edges import clean_as_set
from lib_layerdiffusion.images.follow import find_placement, with_changes
from lib_layerdiffusion.images.layerfile import check_ending
from lib_layerdiffusion.images.opacity import opaque_warning
from lib_layerdiffusion.images.outputs import apart, content_box
from lib_layerdiffusion.images.reading import Picture, read_picture
from lib_layerdiffusion.networks.numbers import check_sampled
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.settings.infotext import to_infotext
from lib_layerdiffusion.settings.parsing import LayerSettings
from lib_layerdiffusion.unet.injection import LayerWeights, additional_prompts, plan_injection

ATTRIBUTE = "layerdiffusion_run"
LOST_PLACE = (
    "Another extension changed the picture so much that its transparency could not follow: the layer is what it was "
    "before that; switch the other extension off, or use it afterwards."
)
OTHER_REFINER = (
    "The refiner finishes the picture without LayerDiffusion: {reason} Alpha may be rougher; let the refiner take over "
    "later or leave it out."
)


def begin(p: Any, args: Sequence[object], models: ForgeModels) -> LayerRun | None:
    """Start a run on `p` where the settings say so; whatever an earlier one left on `p` goes first."""
    control.restore(p)
    batch.put_back(p)
    vars(p).pop(ATTRIBUTE, None)
    own_keys = {row.infotext for row in FIELDS}
    p.extra_generation_params = {key: v for key, v in p.extra_generation_params.items() if key not in own_keys}
    settings = upscale_button.fitting(p, _read(p, models.earlier.inserted(xyz.with_axis_values(p, args))))
    if not settings.enabled:
        return None
    callers.check(p, settings.method)
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
        self._patched: tuple[Any, Tensor | None] = (None, None)
        self._init_pictures: InitPictures | None = None
        self._conditioning: dict[tuple[int, bool], Prompts | None] = {}
        self._sampled = Sampled(p, models.backend)
        self._results = RunResults(settings)

    def complete_batch(self) -> None:
        """Round the batch up to whole pictures, since a picture of this method takes several items."""
        notice = batch.complete(self.p, self.method)
        if notice is not None:
            self._tell(notice)

    def _tell(self, notice: str) -> None:
        """On the page, and once in the API's answer."""
        self.p.comment(notice)
        if notice not in self._results.notices:
            self._results.notices.append(notice)

    def check(self) -> None:
        """Everything that can be wrong with the request, found before anything is sampled.

        Raises:
            LayerDiffusionError: model, pictures or weight files do not fit.
        """
        self.settings.validate_for(self._host.family())
        self.settings.condition_pictures()
        for note in self._notes():
            self._tell(note)
        if options.layer_file():
            check_ending(options.layer_file())
        self._weights = self._host.fitting_weights(self.method)
        saving.keep_alpha()
        self._require()
        if self.method.has_alpha:
            given = getattr(self.p, "init_images", None)
            start = upscale_button.picture(self.p)
            exact, encoder = self.settings.latent_scale.reproduces, bool(given) or start is not None
            self.models.load_transparency(self.method.family, encoder=encoder, exact=exact)
            if given:
                self._watch_init(given)
            if start is not None:
                upscale_button.watch(self.p, start, partial(self.models.encode_offset, self.method.family))
        self._watch_prompts()
        self.p.extra_generation_params.update(to_infotext(self.settings))

    def _notes(self) -> Iterator[str]:
        """What is worth knowing before sampling."""
        yield from self.settings.input_notes()
        note = saving.format_note(self.p) if self.method.has_alpha else None
        if note is not None:
            yield note

    def _require(self) -> None:
        """Whether the host has what is asked of it.

        Raises:
            HostError: it has not.
        """
        if any(additional_prompts(self.settings)):
            needs.require(needs.LAYER_PROMPTS)
        if self.method.has_alpha and getattr(self.p, "init_images", None):
            needs.require(needs.INIT_PICTURES)
        if self.method.has_alpha and saving.saves_other_than_png(self.p):
            needs.require(needs.OTHER_FORMATS)

    def _watch_init(self, given: Sequence[Any]) -> None:
        pictures = [picture for image in given if (picture := read_picture(image, "init")) is not None]
        if len(pictures) != len(given):
            raise InputError("An init picture is empty: choose it again.")
        own = self._init_pictures = InitPictures(self.p, pictures, self.method.is_rgba)

        encode = partial(self.models.encode_offset, self.method.family)

        def init(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            late = nullcontext() if webui.has_hook("before_process_init_images") else own.prepared_late(encode)
            with own.regulated_vae(), late:
                return original(*args, **kwargs)

        control.Replacement(self.p, "init", init)

    def _watch_prompts(self) -> None:
        """What comes last before prompts are used: other scripts have written theirs, a refiner has been loaded."""
        frames = self.method.frame_count

        def init(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            batch.share_prompts(self.p, frames)
            return original(*args, **kwargs)

        def setup_conds(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            batch.share_batch_prompts(self.p, frames)
            result = original(*args, **kwargs)
            self._follow_refiner()
            return result

        control.Replacement(self.p, "init", init)
        control.Replacement(self.p, "setup_conds", setup_conds)

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
        self._patched = (self.p.sd_model, noise)
        injection = plan_injection(self.settings, self._weights, noise.shape[2] * 8, noise.shape[3] * 8)
        if not injection.is_plain:
            self._handle = self._host.inject(injection, self._layer_conditioning())

    def _follow_refiner(self) -> None:
        """Put the method into a refiner that the host has just loaded in the middle of sampling, if it can take it."""
        model, noise = self._patched
        if noise is None or self.p.sd_model is model or getattr(self.p, "sampler", None) is None:
            return
        try:
            self.settings.validate_for(self._host.family())
            self._host.fitting_weights(self.method)
        except LayerDiffusionError as error:
            self._tell(OTHER_REFINER.format(reason=error))
            return
        self._conditioning.clear()
        self.patch_unet(noise)

    def _layer_conditioning(self) -> Prompts | None:
        key = (self.p.iteration, self.p.is_hr_pass)
        if key not in self._conditioning:
            self._conditioning[key] = layer_conditioning(self.p, self.settings)
        return self._conditioning[key]

    def keep_samples(self, samples: Any) -> None:
        """Take the sampled batch [B, 4, h, w] in the sampler's scale, unless it is decoded already.

        Raises:
            HostError: the host sampled without what it was given. ModelError: what it sampled are no numbers.
        """
        if self._handle is not None:
            self._handle.check_merged()
        if isinstance(samples, Tensor) and not getattr(samples, "already_decoded", False):
            check_sampled(samples)
        self._patched = (None, None)
        self._sampled.take_latents(samples)

    def keep_pixels(self, pixels: Tensor) -> None:
        """Take the batch [B, 3, H, W] in [0, 1] as the VAE decoded it."""
        self._sampled.take_pixels(pixels)

    def uncover(self, overlay: Any) -> None:
        """Take the host's overlay off a layer that is about to be composited; this run lays it over by itself.

        overlay: with the index in the batch, the mask and the overlay. What other scripts did to the picture stays
        visible under it that way, and the layer can take it over.
        """
        if self._init_pictures is not None and self.method.is_rgba(overlay.index):
            self._init_pictures.uncover(overlay)

    def replace(self, picture: Any, index: int) -> None:
        """Put the layer in the place of `picture.image` where its frame has alpha.

        index: in the batch. Previews and the picture before decoding come behind all pictures.
        """
        whole = picture.image
        if self.method.is_rgba(index):
            whole = self._decode(picture, index)
        self._results.add_layer(picture.image, self.p.iteration, index, whole)

    def _decode(self, picture: Any, index: int) -> Image.Image:
        """The layer before it is trimmed; the host's picture becomes the one that is saved."""
        image, own = picture.image, self._init_pictures
        place, covered = (None, False) if own is None else own.pasted(index)
        settings, scale = self.settings, self.settings.latent_scale
        given = self._sampled.decoder_input(image, index, scale, place=place, covered=covered)
        decoded = self.models.decode(
            self.method.family, given.pixels, given.latent, settings.decode_passes, exact=scale.reproduces
        )
        exact = decoded[0].movedim(0, -1).numpy()
        rounded = to_uint8(exact)
        layer = self._followed(clean_as_set(rounded, self.settings), given)
        if own is not None:
            layer = own.blend(layer, index)
        warning = opaque_warning(layer)
        if warning is not None:
            self._tell(warning)
        left, top, right, bottom = content_box(layer) if self.settings.trim else (0, 0, *layer.shape[1::-1])
        shown = exact if np.array_equal(layer, rounded) else to_float(layer)
        self._add_extras(layer[top:bottom, left:right], shown[top:bottom, left:right], image, index)
        picture.image = saving.to_image(layer[top:bottom, left:right])
        return saving.to_image(layer) if self.settings.trim else picture.image

    def _add_extras(self, layer: Picture, exact: PictureF, origin: Image.Image, index: int) -> None:
        """What comes behind the pictures. exact: the layer before rounding. origin: as the host made it."""
        settings, add = self.settings, self._results.add_extra
        if settings.preview:
            add("preview", saving.to_image(over_background(exact, options.preview_background())), index)
        if settings.rgb_and_mask:
            for kind, part in zip(("rgb", "mask"), apart(layer), strict=True):
                add(kind, saving.to_image(part), index)
        if settings.output_origin:
            add("before decoding", origin, index)

    def _followed(self, layer: Picture, given: DecoderInput) -> Picture:
        """The layer at the size and place to which other scripts have brought the picture, with what they added."""
        if given.changed is None:
            return layer
        before = given.pixels[0].movedim(0, -1).clamp(0, 1).cpu().numpy()
        placement = find_placement(to_uint8(before), given.changed)
        if placement is None:
            self._tell(LOST_PLACE)
            return layer
        return with_changes(layer, before, given.changed, placement)

    def finish(self, processed: Any) -> None:
        """Hand over previews and leave the host's UNet as it was."""
        try:
            self._results.hand_over(processed, self.models.earlier, callers.use_of(self.p))
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
        batch.put_back(self.p)
        if self._handle is not None:
            self._handle.release()
        self._host.forget()
        self._sampled.forget()
        self._handle = None
        self._patched = (None, None)
