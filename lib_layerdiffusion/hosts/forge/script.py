"""The script: the host's hooks, each one call of the library; `scripts/layerdiffusion.py` brings it in.

Networks, and what carries out a run, are imported by the first run: the host's start does not wait for them.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gradio as gr
from modules import scripts
from modules.ui_components import InputAccordion

from lib_layerdiffusion.hosts.forge import extras, grids, needs, options, paste, saving, sending, tiles, webui, xyz
from lib_layerdiffusion.hosts.forge.control import stopping
from lib_layerdiffusion.hosts.forge.page import LAST_ON_PAGE, TabPage, follow_checkpoint

if TYPE_CHECKING:
    from lib_layerdiffusion.hosts.forge.models import ForgeModels
    from lib_layerdiffusion.hosts.forge.run import LayerRun

for _name in needs.MODULES:  # what is missing keeps us off, instead of stopping the first picture
    import_module(_name)


def in_run(p: Any, action: Callable[[LayerRun], None]) -> None:
    """Do something in the run on `p`, if LayerDiffusion is on; an error stops the run."""
    from lib_layerdiffusion.hosts.forge import run as runs

    run = runs.current(p)
    if run is not None:
        with stopping(p):
            action(run)


@contextmanager
def _accordion(**arguments: Any) -> Iterator[Any]:
    with InputAccordion(**arguments) as enabled:
        if needs.line():
            gr.HTML(html.escape(needs.line()))
        yield enabled


class LayerDiffusionScript(scripts.Script):
    """Generates layers with alpha on both tabs."""

    page: TabPage | None = None

    @staticmethod
    @cache
    def models() -> ForgeModels:
        """What all runs share, made by the first that asks."""
        from lib_layerdiffusion.hosts.forge.models import ForgeModels

        return ForgeModels()

    def title(self) -> str:
        """Name in the page and, in lower case, in the API."""
        return "LayerDiffusion"

    def show(self, _is_img2img: bool) -> Any:  # the host's signature
        """On both tabs, always."""
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # the host's signature
        """Build the accordion."""
        saving.keep_alpha()
        built = self._page(is_img2img).build(_accordion, webui.picture_box)
        options.preset(built.components)
        self.infotext_fields, self.paste_field_names = paste.fields(built.components), paste.field_names()
        return built.inputs

    def after_component(self, component: Any, **_kwargs: Any) -> None:
        """See what the host puts on this tab's page."""
        self._page(self.is_img2img).see(component)

    def _page(self, is_img2img: bool) -> TabPage:
        if self.page is None:
            self.page = TabPage("img2img" if is_img2img else "txt2img")
        return self.page

    def before_process(self, p: Any, *args: object) -> None:
        """Read the settings and round the batch up, before the host lays out prompts and seeds."""
        with stopping(p):
            from lib_layerdiffusion.hosts.forge import run as runs

            runs.begin(p, args, self.models())

    def process(self, p: Any, *_args: object) -> None:
        """Find everything that is wrong with the request; the model is loaded by now."""
        in_run(p, lambda run: run.check())

    def before_process_init_images(self, p: Any, pp: dict[str, Any], *_args: object) -> None:
        """Prepare init pictures with alpha."""
        in_run(p, lambda run: run.encode_init_pictures(pp.get("crop_region")))

    def process_before_every_sampling(self, p: Any, *_args: object, **kwargs: Any) -> None:
        """Patch the UNet; the host resets it before each pass."""
        in_run(p, lambda run: run.patch_unet(kwargs["noise"]))

    def post_sample(self, p: Any, ps: Any, *_args: object) -> None:
        """Take the last latents."""
        in_run(p, lambda run: run.keep_samples(ps.samples))

    def postprocess_batch(self, p: Any, *_args: object, **kwargs: Any) -> None:
        """Take the pixels before they are rounded."""
        in_run(p, lambda run: run.keep_pixels(kwargs["images"]))

    def postprocess_maskoverlay(self, p: Any, ppmo: Any, *_args: object) -> None:
        """Take the overlay off layers, before the host composites them."""
        in_run(p, lambda run: run.uncover(ppmo))

    def postprocess_image_after_composite(self, p: Any, pp: Any, *_args: object) -> None:
        """Put the decoded layer in the picture's place, before the host saves it."""
        in_run(p, lambda run: run.replace(pp, p.batch_index))

    def postprocess(self, p: Any, processed: Any, *_args: object) -> None:
        """Add the previews and let go of everything."""
        in_run(p, lambda run: run.finish(processed))


class _WholePage:
    """Sees what the host puts on its page outside the tabs."""

    def __init__(self) -> None:
        self._menu: Any = None

    def see(self, component: Any, **_kwargs: Any) -> None:
        """Called for each part of the page."""
        elem_id = getattr(component, "elem_id", None)
        if elem_id == webui.CHECKPOINT_MENU:
            self._menu = component
        if elem_id == LAST_ON_PAGE:
            self._finish()

    def _finish(self) -> None:
        runners = (scripts.scripts_txt2img, scripts.scripts_img2img)
        ours = [one for runner in runners for one in runner.alwayson_scripts if isinstance(one, LayerDiffusionScript)]
        menu = webui.checkpoint_menu() or self._menu
        follow_checkpoint([script.page for script in ours if script.page is not None], menu)
        self._menu = None


def _serve(_demo: Any, app: Any) -> None:
    from lib_layerdiffusion.hosts.forge import api

    api.add_routes(LayerDiffusionScript.models(), app)


def _is_ours(script: object) -> bool:
    return isinstance(script, LayerDiffusionScript)


def register(file: str) -> None:
    """Register what a host calls back beside the script's hooks, as far as it can. file: the extension's script."""
    # The host's own scripts, its plot among them, are loaded before those of extensions.
    xyz.add_axes(_is_ours)
    tiles.add_alpha(_is_ours)
    grids.keep_alpha()
    extras.keep_alpha()
    sending.keep_alpha()
    wanted: dict[str, tuple[Callable[..., Any], needs.Feature | None]] = {
        "after_component": (_WholePage().see, None),
        "ui_settings": (options.add, needs.SETTINGS_PAGE),
        "infotext_pasted": (paste.tell, None),
        "app_started": (_serve, needs.ROUTES),
    }
    for category, (callback, feature) in wanted.items():
        if feature not in needs.lost():
            webui.register(callback, category, file)
