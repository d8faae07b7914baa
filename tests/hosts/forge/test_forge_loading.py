"""A host that lost something: the script loads or says in one line why not, and what is left works."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

import gradio as gr
import numpy as np
import pytest

from lib_layerdiffusion.errors import HostError
from tests.hosts.forge.hosts import SCRIPT

OURS = "lib_layerdiffusion.hosts.forge"
USED_BY_THE_FAKE = ("modules.prompt_parser", "modules.extra_networks", "modules.processing")
TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
TOGETHER = "(SD1.5) Generate Everything Together (need batch size 3)"


def touched() -> tuple[list[str], dict[str, str]]:
    from lib_layerdiffusion.hosts.forge import needs

    package = next(name for name in needs.BACKENDS if import_module("importlib.util").find_spec(name))
    essential = [*needs.ESSENTIAL, *needs.BACKENDS[package]]
    return essential, {name: feature.what for feature in needs.FEATURES for name in feature.names}


@contextmanager
def loaded_anew():
    """Loads the script as a host does, beside the one that other tests use."""
    from modules import script_callbacks

    import lib_layerdiffusion.hosts as parent

    kept = {name: module for name, module in sys.modules.items() if name.startswith(OURS)}
    own, lists = parent.forge, {name: list(calls) for name, calls in script_callbacks.registered.items()}
    for name in kept:
        del sys.modules[name]
    try:
        spec = spec_from_file_location("layerdiffusion_script_anew", SCRIPT)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        for name in [name for name in sys.modules if name.startswith(OURS)]:
            del sys.modules[name]
        sys.modules.update(kept)
        parent.forge = own
        for name, calls in lists.items():
            script_callbacks.registered[name][:] = calls


@pytest.fixture
def without(fake, monkeypatch):
    """Takes something of the host's away, module:attribute or a whole module."""

    def remove(name: str) -> None:
        module, _, path = name.partition(":")
        if not path:
            monkeypatch.setitem(sys.modules, module, None)
            monkeypatch.delattr(import_module(module.rpartition(".")[0]), module.rpartition(".")[2], raising=False)
            return
        owner = import_module(module)
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        for place in owner.__mro__[:-1] if isinstance(owner, type) else [owner]:
            if last in vars(place):
                monkeypatch.delattr(place, last)

    return remove


def run_with(module, fake, *arguments, **body):
    own = fake.script_class
    fake.script_class = module.LayerDiffusionScript
    try:
        return fake.run(*arguments, **body)
    finally:
        fake.script_class = own


def test_everything_that_is_touched_is_looked_at_one_at_a_time(fake, without, capsys, monkeypatch):
    essential, _ = touched()
    for name in essential:
        with monkeypatch.context():
            without(name)
            with loaded_anew() as module:
                assert not hasattr(module, "LayerDiffusionScript")
        monkeypatch.undo()
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith("LayerDiffusion is off: ")
        assert name.replace(":", ".") in lines[0]


def test_a_lost_feature_is_off_and_everything_else_works(fake, ask, without, capsys, monkeypatch):
    _, features = touched()
    for name, what in features.items():
        without(name)
        with loaded_anew() as module:
            with gr.Blocks():
                script = module.LayerDiffusionScript()
                script.is_img2img = False
                script.ui(False)
            line = sys.modules[f"{OURS}.needs"].line()
            assert what in line, name
            assert name.replace(":", ".") in line
            if not name.startswith(USED_BY_THE_FAKE):
                result = run_with(module, fake, ask(TRANSPARENT))
                assert result.error is None, name
                assert result.images[0].mode == "RGBA"
        monkeypatch.undo()
    assert capsys.readouterr().out == ""


def test_the_accordion_says_what_is_off(fake, without):
    without("modules.sd_samplers:find_sampler_config")
    with loaded_anew() as module, gr.Blocks() as page:
        script = module.LayerDiffusionScript()
        script.is_img2img = False
        script.ui(False)
        texts = [str(part.value) for part in page.blocks.values() if isinstance(part, gr.HTML)]
    assert any("prompts of single layers (no modules.sd_samplers.find_sampler_config)" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "arguments", "body"),
    [
        ("modules.sd_samplers:find_sampler_config", {"method": TOGETHER, "background_prompt": "sky"}, {}),
        ("modules.images:resize_image", {"method": TRANSPARENT}, {"img2img": True}),
        ("modules.images:save_image", {"method": TRANSPARENT}, {"save_images": True}),
    ],
)
def test_what_needs_it_is_refused_before_sampling(fake, ask, rgba, without, name, arguments, body):
    from modules import shared

    fake.option("samples_format", "jpg")
    shared.state.sampling_step = -1
    more = {"init_images": [rgba(fake.side)]} if body.get("img2img") else {}
    without(name)
    with loaded_anew() as module:
        failed = run_with(module, fake, ask(**arguments), **body, **more)
    assert type(failed.error).__name__ == HostError.__name__
    assert name.replace(":", ".") in failed.message
    assert shared.state.sampling_step == -1


@pytest.mark.parametrize(
    "name", ["modules.options", "modules.prompt_parser", "modules.sd_samplers", "modules.extra_networks"]
)
def test_a_lost_module_is_one_line(fake, without, capsys, name):
    without(name)
    with loaded_anew():
        pass
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("LayerDiffusion is off: ")
    assert name.rpartition(".")[2] in line


def test_without_the_stealth_option_alpha_is_saved(fake, ask, without):
    without("modules.stealth_infotext")
    with loaded_anew() as module:
        result = run_with(module, fake, ask(TRANSPARENT))
    assert result.images[0].getextrema()[3][0] < 250


def test_another_webui_is_one_line(fake):
    from lib_layerdiffusion.hosts.forge import needs

    assert "none of them" in needs.unusable(packages=())
    lost = needs.BACKENDS["ldm_patched"][-1]
    sentence = needs.unusable(lambda names: [name for name in names if name == lost], ("ldm_patched",))
    assert sentence.count("\n") == 0
    assert lost.replace(":", ".") in sentence


def test_what_does_not_fit_although_all_is_there_is_one_line(fake, capsys, monkeypatch):
    from modules import script_callbacks

    monkeypatch.setattr(script_callbacks, "add_callback", lambda: None)
    with loaded_anew():
        pass
    (line,) = capsys.readouterr().out.splitlines()
    assert "does not fit this host (TypeError" in line


def test_the_same_pictures_after_loading_anew(fake, ask):
    with loaded_anew() as module:
        again = run_with(module, fake, ask(TRANSPARENT))
    assert np.array_equal(again.array(), fake.run(ask(TRANSPARENT)).array())
