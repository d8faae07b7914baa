"""The script on the host's page: what it is connected with, and what its buttons do."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib_layerdiffusion.interface import wording
from lib_layerdiffusion.methods import METHODS, Family, Layer
from lib_layerdiffusion.settings.fields import FIELDS

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
SD15_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SDXL_KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def host_page(fake, monkeypatch):
    """A tab as the host makes it: prompts, scripts, results, and the menu of checkpoints in the end."""
    from modules import script_callbacks, scripts

    from lib_layerdiffusion.hosts.forge import webui

    entry = webui.optional("modules_forge.main_entry")

    with gr.Blocks() as demo:
        tabs = []
        for is_img2img, tab in ((False, "txt2img"), (True, "img2img")):
            script = fake.script_class()
            script.is_img2img = is_img2img
            for part in ("prompt", "neg_prompt"):
                script.after_component(gr.Textbox(elem_id=f"{tab}_{part}"))
            inputs = script.ui(is_img2img)
            script.after_component(gr.Gallery(elem_id=f"{tab}_gallery"))
            script.after_component(gr.File(elem_id=f"download_files_{tab}"))
            tabs.append(SimpleNamespace(tab=tab, script=script, inputs=inputs))
        menu = gr.Dropdown(["one", "two"], value="one", elem_id="setting_sd_model_checkpoint")
        if entry is not None:
            monkeypatch.setattr(entry, "ui_checkpoint", menu)
        for name, kept in zip(("scripts_txt2img", "scripts_img2img"), tabs, strict=True):
            runner = SimpleNamespace(alwayson_scripts=[object(), kept.script])
            monkeypatch.setattr(scripts, name, runner, raising=False)
        monkeypatch.setattr(fake.module, "scripts", scripts)
        for part in (menu, gr.HTML(elem_id="footer")):
            for callback in script_callbacks.registered["after_component"]:
                callback(part)
    return SimpleNamespace(demo=demo, config=demo.get_config_file(), tabs=tabs)


@pytest.fixture
def checkpoint(fake, monkeypatch, tmp_path):
    """Puts a checkpoint with one tensor into the host's list."""
    from modules import sd_models

    def put(name: str, tensors: dict[str, torch.Tensor]) -> str:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        monkeypatch.setitem(sd_models.checkpoints, name, SimpleNamespace(filename=str(path)))
        return name

    return put


def find(page, elem_id):
    return next(part for part in page.config["components"] if part["props"].get("elem_id") == elem_id)


def outputs_of(page, component, event):
    """Ids that the events of a component change, by whether a server is asked."""
    found = {True: set(), False: set()}
    for dependency in page.config["dependencies"]:
        if (component["id"], event) in map(tuple, dependency["targets"]):
            found[dependency["backend_fn"]] |= set(dependency["outputs"])
    return found


def test_every_control_has_an_id_of_its_own(host_page):
    ids = [part["props"].get("elem_id") for part in host_page.config["components"]]
    ours = [elem_id for elem_id in ids if elem_id and elem_id.startswith("layerdiffusion_")]
    assert len(ours) == len(set(ours))
    for tab in ("txt2img", "img2img"):
        wanted = {f"layerdiffusion_{tab}_{row.name}" for row in FIELDS if row.attribute != "pictures"}
        assert wanted <= set(ours)
    assert [len(kept.inputs) for kept in host_page.tabs] == [len(FIELDS)] * 2


def test_an_example_fills_the_tabs_own_prompts(host_page):
    for tab in ("txt2img", "img2img"):
        prompts = {find(host_page, f"{tab}_{part}")["id"] for part in ("prompt", "neg_prompt")}
        example = find(host_page, f"layerdiffusion_{tab}_example")
        assert prompts <= outputs_of(host_page, example, "input")[False]


def test_choosing_a_method_asks_no_server(host_page):
    method = find(host_page, "layerdiffusion_txt2img_method")
    changed = outputs_of(host_page, method, "change")
    assert find(host_page, "layerdiffusion_txt2img_outcome")["id"] in changed[False]
    assert not changed[True]


def test_a_remembered_method_is_followed_when_the_page_opens(host_page):
    at_opening = [d for d in host_page.config["dependencies"] if any(event == "load" for _, event in d["targets"])]
    changed = {out for dependency in at_opening if not dependency["backend_fn"] for out in dependency["outputs"]}
    assert {find(host_page, f"layerdiffusion_{tab}_outcome")["id"] for tab in ("txt2img", "img2img")} <= changed


def test_both_panels_follow_the_menu_of_checkpoints(host_page):
    menu = next(
        part
        for part in host_page.config["components"]
        if part["props"].get("choices") == [("one", "one"), ("two", "two")]
    )
    methods = {find(host_page, f"layerdiffusion_{tab}_method")["id"] for tab in ("txt2img", "img2img")}
    assert methods <= outputs_of(host_page, menu, "change")[True]
    loads = [d for d in host_page.config["dependencies"] if any(event == "load" for _, event in d["targets"])]
    assert any(methods <= set(dependency["outputs"]) for dependency in loads)


def test_a_button_brings_a_result_into_its_own_tab(host_page):
    for tab in ("txt2img", "img2img"):
        button = find(host_page, f"layerdiffusion_{tab}_use_as_foreground")
        method = find(host_page, f"layerdiffusion_{tab}_method")
        assert method["id"] in outputs_of(host_page, button, "click")[True]


class TestNextStep:
    @pytest.fixture
    def take(self, fake):
        from lib_layerdiffusion.hosts.forge.page import take_to_next_step

        return take_to_next_step

    def test_the_chosen_result_is_taken_with_its_alpha(self, take, rgba):
        results = [(rgba(seed=seed), None) for seed in range(3)]
        picture, label = take(Layer.FOREGROUND, results, 1, TRANSPARENT)
        assert np.array_equal(picture, np.asarray(results[1][0]))
        assert METHODS[label].name == "fg-to-bg"

    def test_without_a_choice_it_is_the_first(self, take, rgb):
        results = [(rgb(seed=seed), None) for seed in range(2)]
        picture, label = take(Layer.BLENDED, results, -1, "(SDXL) From Background to Blending")
        assert np.array_equal(picture[..., :3], np.asarray(results[0][0]))
        assert label == "(SDXL) From Background and Blending to Foreground"

    def test_what_cannot_go_on_is_said(self, take, rgb):
        with pytest.raises(gr.Error, match="generate one first"):
            take(Layer.FOREGROUND, None, 0, TRANSPARENT)
        with pytest.raises(gr.Error, match=r"No SD1\.5 method goes on from here with a blended picture"):
            take(Layer.BLENDED, [(rgb(), None)], 0, TRANSPARENT)


class TestCheckpoints:
    @pytest.fixture
    def family(self, fake):
        from lib_layerdiffusion.hosts.forge.checkpoints import chosen_family

        return chosen_family

    @pytest.mark.parametrize(
        ("key", "width", "expected"),
        [
            (SD15_KEY, 768, Family.SD15),
            (SDXL_KEY, 2048, Family.SDXL),
            (SD15_KEY, 1024, None),  # Stable Diffusion 2
            (SDXL_KEY, 1280, None),  # the refiner of XL
            ("double_blocks.0.img_attn.qkv.weight", 3072, None),
        ],
    )
    def test_the_file_tells(self, family, checkpoint, key, width, expected):
        assert family(checkpoint("model", {key: torch.zeros(2, width)})) == (expected, True)

    def test_what_cannot_be_read_is_not_known(self, family, checkpoint, tmp_path):
        assert family("nothing like it") == (None, False)
        assert family(None) == (None, False)
        name = checkpoint("broken", {SD15_KEY: torch.zeros(2, 768)})
        (tmp_path / "broken.safetensors").write_bytes(b"cut off")
        assert family(name) == (None, False)

    def test_a_replaced_file_is_read_again(self, family, checkpoint, tmp_path):
        import os

        name = checkpoint("model", {SD15_KEY: torch.zeros(2, 768)})
        assert family(name)[0] is Family.SD15
        checkpoint("model", {SDXL_KEY: torch.zeros(2, 2048)})
        os.utime(tmp_path / "model.safetensors", ns=(1, 1))
        assert family(name)[0] is Family.SDXL

    def test_the_panels_get_their_family(self, family, checkpoint):
        from lib_layerdiffusion.hosts.forge.page import _for_checkpoint

        name = checkpoint("model", {SD15_KEY: torch.zeros(2, 768)})
        xl = "(SDXL) Only Generate Transparent Image (Attention Injection)"
        updates = _for_checkpoint(name, xl, "(SDXL) From Foreground to Blending")
        assert len(updates) == 6
        assert updates[0]["value"] == TRANSPARENT  # what is the same in both families moves over
        assert "value" not in updates[3]  # what has no counterpart stays, and the panel says why it cannot work
        assert (updates[1], updates[4]) == ("SD1.5", "SD1.5")
        shown = [name for name, _ in updates[0]["choices"]]
        assert shown[:4] == [row.label for row in METHODS.of_family(Family.SD15)]
        assert shown[4:] == [wording.marked(row) for row in METHODS.of_family(Family.SDXL)]
        assert "value" not in _for_checkpoint(name, TRANSPARENT)[0]  # or a late answer would undo a paste
        unknown = _for_checkpoint("nothing like it", xl)
        assert unknown[1] == ""
        assert {name for name, _ in unknown[0]["choices"]} == set(METHODS)


def takes_files(component):
    """Whether gradio fetches what a request names for this component (CVE-2024-47167 in the release hosts pin)."""
    model = getattr(component, "data_model", None)
    return model is not None and "FileData" in str(model.model_json_schema())


def test_our_inputs_give_gradio_nothing_to_fetch_that_the_hosts_own_do_not(host_page):
    from lib_layerdiffusion.hosts.forge import webui

    ours = [component for tab in host_page.tabs for component in tab.inputs]
    kinds = {type(component) for component in ours if takes_files(component)}
    if webui.optional("modules_forge.forge_canvas.canvas", "ForgeCanvas") is not None:
        assert kinds == set()  # the canvas hands pictures over as text
    assert kinds <= {gr.Image}  # which img2img and PNG Info of every host are made of
