"""What surrounds a run: pasted infotext, axes of the X/Y/Z plot, the settings page and the routes."""

from __future__ import annotations

import base64
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from lib_layerdiffusion.errors import LayerDiffusionError, SettingsError
from lib_layerdiffusion.images.compose import place
from lib_layerdiffusion.images.layerfile import ENDINGS, read_ora
from lib_layerdiffusion.images.reading import encode_picture, picture_hash, read_picture
from lib_layerdiffusion.interface.wording import every_text
from lib_layerdiffusion.methods import METHODS, Family
from lib_layerdiffusion.server.bodies import read_latent
from lib_layerdiffusion.settings.fields import FIELDS, START_VALUES
from lib_layerdiffusion.settings.infotext import to_infotext
from lib_layerdiffusion.settings.parsing import LayerSettings

SD15 = "(SD1.5) Only Generate Transparent Image (Attention Injection)"
FG_TO_BG = "(SD1.5) From Foreground to Background (need batch size 2)"
SENT = {"Steps": "20", "Sampler": "Euler"}
PREFIX = "/layerdiffusion/v1"
FIELDS_OF = {
    "compose": ["foreground", "background", "left", "top", "scale", "linear"],
    "decode": ["latent", "picture", "family", "decode_passes"],
    "encode": ["picture"],
    "layers": ["layers", "width", "height", "format"],
}
NAMES = ["name", "picture", "left", "top", "visible", "image", "composite"]


@pytest.fixture
def services(fake):
    from lib_layerdiffusion.hosts.forge import api, codec, control, options, paste, xyz

    return SimpleNamespace(api=api, codec=codec, control=control, options=options, paste=paste, xyz=xyz)


@pytest.fixture
def option(services, monkeypatch):
    """Sets an option of our section as the settings page would."""
    from modules import shared

    return lambda name, value: monkeypatch.setattr(shared.opts, services.options.PREFIX + name, value, raising=False)


def pasted(services, params):
    return {name: reader(params) for name, reader in services.paste.fields({row.name: row.name for row in FIELDS})}


class TestPaste:
    def test_every_control_comes_back(self, services):
        asked = {"enabled": True, "method": FG_TO_BG, "weight": 0.5, "stop_at": 0.25, "resize_mode": "Just Resize"}
        asked |= {"output_origin": True, "background_prompt": "sky, blue: deep", "decode_passes": 2, "preview": False}
        asked |= {"latent_scale": "sampler latent (2024-08 release)", "blended_prompt": "a tree"}
        settings = LayerSettings.from_mapping(asked)
        values = pasted(services, {**SENT, **to_infotext(settings)})
        assert LayerSettings.from_args([values[row.name] for row in FIELDS]) == settings
        assert {name: values[name] for name in asked} == asked

    def test_what_the_text_leaves_out_goes_back_to_its_default(self, services):
        values = pasted(services, {**SENT, "LayerDiffusion method": SD15})
        given_again = {row.name: values[row.name] for row in FIELDS if row.attribute != "pictures"}
        assert LayerSettings.from_mapping(given_again) == LayerSettings(enabled=True, method=METHODS[SD15])

    def test_text_of_the_reference_extension(self, services):
        old = {
            "layerdiffusion_enabled": "True",
            "layerdiffusion_method": "Only Generate Transparent Image (Conv Injection)",
        }
        old |= {"layerdiffusion_weight": "0.8", "layerdiffusion_ending_step": "0.5", "layerdiffusion_fg_image": "False"}
        values = pasted(services, {**SENT, **old})
        assert values["enabled"] is True
        assert values["method"] == "(SDXL) Only Generate Transparent Image (Conv Injection)"
        assert (values["weight"], values["stop_at"]) == (0.8, 0.5)

    def test_a_plain_picture_switches_off_and_a_bare_prompt_changes_nothing(self, services):
        assert pasted(services, SENT)["enabled"] is False
        assert set(pasted(services, {"Prompt": "an apple"}).values()) == {None}

    def test_a_prompt_that_the_host_takes_for_a_size(self, services):
        method = METHODS[FG_TO_BG]
        settings = LayerSettings(enabled=True, method=method, prompts={method.frames[0]: "640x512"})
        key = "LayerDiffusion background prompt"
        params = {**SENT, **to_infotext(settings)}
        assert params.pop(key) == "640x512"
        assert pasted(services, {**params, f"{key}-1": "640", f"{key}-2": "512"})["background_prompt"] == "640x512"

    @trials(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
    @given(st.data())
    def test_edited_text_never_fails(self, services, data):
        keys = [key for row in FIELDS for key in (row.infotext, row.old_infotext, f"{row.infotext}-1") if key]
        params = data.draw(st.dictionaries(st.sampled_from([*keys, "layerdiffusion_x", "Steps"]), st.text()))
        values = pasted(services, params)
        LayerSettings.from_args([values[row.name] for row in FIELDS])
        services.paste.messages(params)

    def test_the_missing_picture_is_named(self, services, rgba):
        picture = read_picture(rgba(), "foreground")
        settings = LayerSettings.from_mapping({"method": FG_TO_BG, "foreground": picture})
        (message,) = services.paste.messages({**SENT, **to_infotext(settings)})
        assert picture_hash(picture) in message
        assert '"Foreground picture"' in message

    def test_text_from_strangers_cannot_bring_markup_onto_the_page(self, services, monkeypatch):
        shown = []
        monkeypatch.setattr(services.paste.gr, "Info", shown.append)
        services.paste.tell("", {**SENT, "LayerDiffusion method": SD15, "LayerDiffusion weight": "<img src=x>"})
        assert len(shown) == 1
        assert "&lt;img" in shown[0]

    def test_controls_of_both_tabs_find_each_other(self, services):
        one, other = (services.paste.fields({row.name: object() for row in FIELDS}) for _ in range(2))
        names = services.paste.field_names()
        assert [target for _, target in one if target in names] == [target for _, target in other if target in names]
        assert len({target for _, target in one}) == len(FIELDS)  # the host keeps them as keys of a dict


class TestAxes:
    @pytest.fixture
    def plot(self, monkeypatch):
        from modules import scripts

        class AxisOption:
            def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None):  # noqa: A002
                self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices

        module = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
        script_class = type("Script", (), {"run": lambda *_: None})
        loaded = [SimpleNamespace(path="/forge/scripts/xyz_grid.py", module=module, script_class=script_class)]
        monkeypatch.setattr(scripts, "scripts_data", loaded, raising=False)
        return module

    @pytest.mark.usefixtures("real")
    def test_the_hosts_plot_has_them_as_soon_as_scripts_are_loaded(self):
        from modules import scripts

        plots = [data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py")]
        labels = [option.label for option in plots[0].axis_options]
        assert labels.count("[LayerDiffusion] Weight") == 1

    def axis(self, services, name):
        return next(axis for axis in services.xyz.AXES if axis.name == name)

    def cell(self, fake, p, *axes):
        one = copy.copy(p)
        for axis, value in axes:
            axis.apply(one, value, [])
        from modules import processing

        return fake._process(processing.process_images, one)

    def test_they_are_added_once(self, services, plot):
        services.xyz.add_axes(lambda _: False)
        services.xyz.add_axes(lambda _: False)
        labels = [option.label for option in plot.axis_options]
        assert labels[0] == "Nothing"
        wanted = ("Method", "Weight", "Stop At", "Decode passes", "Resize Mode")
        assert labels[1:] == [f"[LayerDiffusion] {name}" for name in wanted]

    def test_a_choice_can_be_converted_and_passes_its_check(self, services, plot):
        services.xyz.add_axes(lambda _: False)
        for option in plot.axis_options[1:]:
            values = [option.type(text) for text in (option.choices() if option.choices else ["0.5", "1"])]
            option.confirm(None, values)

    def test_a_wrong_value_stops_the_plot_with_a_sentence(self, services):
        with pytest.raises(SettingsError, match="Weight must be a number from 0 to 2"):
            self.axis(services, "weight").confirm(None, [1.0, 7.0])

    def test_without_the_plot_nothing_happens(self, services, monkeypatch):
        from modules import scripts

        monkeypatch.setattr(scripts, "scripts_data", [], raising=False)
        services.xyz.add_axes(lambda _: False)

    def test_each_cell_has_its_own_values(self, services, fake, ask):
        weight, passes = self.axis(services, "weight"), self.axis(services, "decode_passes")
        p = fake._processing(ask(SD15, preview=False), img2img=False, body={})
        half = self.cell(fake, p, (weight, 0.5), (passes, 1))
        full = self.cell(fake, p, (weight, 1.0), (passes, 1))
        assert "LayerDiffusion weight: 0.5" in half.infotext
        assert "LayerDiffusion weight" not in full.infotext
        assert not half.same_as(full)
        assert half.same_as(fake.run(ask(SD15, weight=0.5, decode_passes=1, preview=False)))
        assert full.same_as(fake.run(ask(SD15, decode_passes=1, preview=False)))
        assert not hasattr(p, services.xyz.ATTRIBUTE)

    @pytest.mark.parametrize("args", [None, [{}], [{"enabled": False, "ending_step": 0.5}]])
    def test_an_axis_switches_layers_on(self, services, fake, args):
        p = fake._processing(args, img2img=False, body={})
        values = (("method", SD15), ("decode_passes", 1))
        result = self.cell(fake, p, *((self.axis(services, name), value) for name, value in values))
        assert result.error is None
        assert result.images[0].mode == "RGBA"
        assert ("stop at: 0.5" in result.infotext) == bool(args and args[0])


class TestOptions:
    def test_the_section(self, services, monkeypatch):
        from modules import shared

        added = {}
        monkeypatch.setattr(shared.opts, "add_option", added.__setitem__, raising=False)
        services.options.add()
        assert all(
            key.startswith("layerdiffusion_") and info.section[1] == "LayerDiffusion" for key, info in added.items()
        )
        for name in START_VALUES:
            row = next(row for row in FIELDS if row.name == name)
            assert row.read(added[f"layerdiffusion_{name}"].default) == row.default
        # A client of the API must not point the server at another folder or address.
        restricted = {key for key, info in added.items() if info.restrict_api}
        assert restricted == {"layerdiffusion_models_dir", "layerdiffusion_mirror"}

    def test_its_texts_are_those_that_are_translated(self, services, monkeypatch):
        from modules import shared

        added = {}
        monkeypatch.setattr(shared.opts, "add_option", added.__setitem__, raising=False)
        services.options.add()
        shown = [text for info in added.values() for text in (info.label, *info.infos)]
        choices = [(info.component_args or {}).get("choices", ()) for info in added.values()]
        shown += [choice for offered in choices for choice in offered if isinstance(choice, str)]
        assert set(shown) - set(ENDINGS) <= set(every_text())

    def test_a_request_that_says_nothing_gets_the_pages_defaults(self, services, option, fake):
        option("decode_passes", 1)
        option("preview", value=False)
        result = fake.run([True, SD15])
        assert "LayerDiffusion decode passes: 1" in result.infotext
        assert len(result.images) == 1
        assert len(fake.run([{"method": SD15, "preview": True}]).images) == 2

    def test_an_edited_file_of_options_cannot_break_a_run(self, services, option):
        option("decode_passes", "many")
        option("latent_scale", 7)
        option("preview_background", "plaid")
        option("memory_limit", "lots")
        assert services.options.defaults() == {row.name: row.default for row in FIELDS if row.name in START_VALUES}
        assert services.options.preview_background() == "checkerboard"
        assert services.options.decode_memory(10) == 5

    def test_memory(self, services, option):
        assert services.options.decode_memory(8 << 30) == 4 << 30
        option("memory_limit", 1.5)
        assert services.options.decode_memory(8 << 30) == 3 << 29
        assert services.options.decode_memory(1 << 30) == 1 << 29

    def test_the_decoder_is_compiled_only_where_the_page_says_so(self, services, option):
        assert services.options.compiled() is False
        option("compiled", "yes")
        assert services.options.compiled() is False
        option("compiled", value=True)
        assert services.options.compiled() is True

    def test_a_new_form_starts_with_them(self, services, option):
        option("decode_passes", 2)
        controls = {name: SimpleNamespace(value=None) for name in START_VALUES}
        services.options.preset(controls)
        assert controls["decode_passes"].value == 2
        assert controls["latent_scale"].value == "VAE latent"
        assert all(control.do_not_save_to_config for control in controls.values())

    def test_the_background_of_previews(self, services, option, fake, ask):
        option("preview_background", "light")
        result = fake.run(ask(SD15, decode_passes=1))
        layer, shown = result.array(0).astype(float), result.array(1).astype(float)
        alpha = layer[..., 3:] / 255
        assert np.abs(layer[..., :3] * alpha + 255 * (1 - alpha) - shown).max() <= 1

    def test_where_weights_come_from(self, services, option, monkeypatch, tmp_path):
        from modules import shared

        from lib_layerdiffusion.hosts.forge.models import ForgeModels

        option("models_dir", str(tmp_path))
        option("mirror", "https://mirror.example")
        store = ForgeModels().store
        assert store.folders[0] == tmp_path
        assert store.status()[0].address.startswith("https://mirror.example/")
        monkeypatch.setattr(shared.cmd_opts, "layerdiffusion_models_dir", str(tmp_path / "first"))
        assert ForgeModels().store.folders[0] == tmp_path / "first"


class TestRoutes:
    @pytest.fixture
    def models(self, services):
        from lib_layerdiffusion.hosts.forge.models import ForgeModels

        return ForgeModels()

    @pytest.fixture
    def client(self, services, models):
        from fastapi import Depends, FastAPI, HTTPException
        from fastapi.security import HTTPBasic, HTTPBasicCredentials
        from fastapi.testclient import TestClient

        def auth(credentials: HTTPBasicCredentials = Depends(HTTPBasic())):  # noqa: B008
            if credentials.password != "secret":
                raise HTTPException(401)

        app = FastAPI()
        auth.__annotations__["credentials"] = HTTPBasicCredentials
        app.add_api_route(services.api.HOST_ROUTE, _no_options, dependencies=[Depends(auth)])
        assert services.api.add_routes(models, app)
        client = TestClient(app, raise_server_exceptions=False)
        client.auth = ("user", "secret")
        return client

    @pytest.mark.parametrize("route", ["schema", "methods", "decode", "encode", "compose", "layers"])
    def test_they_are_behind_the_hosts_login(self, client, route):
        client.auth = None
        call = client.get if route in {"schema", "methods"} else lambda path: client.post(path, json={})
        assert call(f"{PREFIX}/{route}").status_code == 401
        client.auth = ("user", "guess")
        assert call(f"{PREFIX}/{route}").status_code == 401

    def test_where_the_host_serves_no_api_there_are_none(self, services, models):
        from fastapi import FastAPI

        app = FastAPI()
        before = len(app.routes)
        assert not services.api.add_routes(models, app)
        assert len(app.routes) == before

    def test_schema(self, client):
        schema = client.get(f"{PREFIX}/schema").json()
        assert list(schema["properties"]) == [row.name for row in FIELDS]

    def test_methods_say_what_is_installed(self, client, models):
        def answer():
            answered = client.get(f"{PREFIX}/methods").json()
            return answered, {row["label"]: row for row in answered["methods"]}

        whole, rows = answer()
        assert list(rows) == list(METHODS)
        assert whole["loaded_family"] == "SD1.5"
        assert rows[FG_TO_BG]["layers"] == [
            {"layer": "background", "alpha": False},
            {"layer": "blended", "alpha": False},
        ]
        assert rows[SD15]["installed"]
        file = models.store.find(METHODS[SD15].weights)
        hidden = file.rename(file.with_suffix(".away"))
        try:
            _, rows = answer()
        finally:
            hidden.rename(file)
        assert not rows[SD15]["installed"]
        assert rows[FG_TO_BG]["installed"]
        assert str(models.store.folders[0]) not in json.dumps(whole)

    def test_composing(self, client, rgba, rgb):
        over, under = read_picture(rgba(), "a"), read_picture(rgb(), "b")
        body = {
            "foreground": encode_picture(over),
            "background": encode_picture(under),
            "left": -5,
            "top": 9,
            "scale": 0.5,
        }
        answer = client.post(f"{PREFIX}/compose", json=body)
        expected = place(over, under, left=-5, top=9, scale=0.5)
        assert np.array_equal(read_picture(answer.json()["picture"], "c"), expected)
        linear = client.post(f"{PREFIX}/compose", json={**body, "linear": True}).json()["picture"]
        assert not np.array_equal(read_picture(linear, "c"), expected)

    def test_layers_as_one_file(self, client, rgba, rgb):
        over, under = read_picture(rgba(), "a"), read_picture(rgb(), "b")
        layers = [
            {"name": "under", "picture": encode_picture(under)},
            {"picture": encode_picture(over), "left": -5, "top": "9", "visible": False},
        ]
        answer = client.post(f"{PREFIX}/layers", json={"layers": layers, "width": 50, "height": 40}).json()
        assert answer["name"] == "layers.ora"
        stack = read_ora(base64.b64decode(answer["file"]))
        assert (stack.width, stack.height) == (50, 40)
        places = [(layer.name, layer.left, layer.top, layer.visible) for layer in stack.layers]
        assert places == [("under", 0, 0, True), ("Layer 2", -5, 9, False)]
        assert np.array_equal(stack.layers[1].picture, over)
        pytest.importorskip("psd_tools")
        answer = client.post(f"{PREFIX}/layers", json={"layers": layers, "format": "psd"}).json()
        assert base64.b64decode(answer["file"]).startswith(b"8BPS")

    def test_alpha_goes_into_the_latent_and_the_decoder_gets_it(self, client, services, models, rgba):
        solid = rgba()
        solid.putalpha(255)
        hidden, opaque = (
            client.post(f"{PREFIX}/encode", json={"picture": encode_picture(np.asarray(image))}).json()
            for image in (rgba(), solid)
        )
        assert hidden["family"] == "SD1.5"
        latent = read_latent(hidden["latent"])
        assert latent.shape == (1, 4, 8, 8)
        assert not torch.equal(latent, read_latent(opaque["latent"]))
        seen = services.codec._vae_decode(latent)
        decoded = models.decode(Family.SD15, seen, latent, 2)
        body = {"latent": hidden["latent"], "decode_passes": 2}
        answer = read_picture(client.post(f"{PREFIX}/decode", json=body).json()["picture"], "answer")
        assert np.abs(answer / 255 - decoded[0].movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6
        picture = read_picture(hidden["picture"], "picture")
        assert np.abs(picture[..., :3] / 255 - seen[0].movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6

    def test_a_given_picture_needs_no_checkpoint(self, client, monkeypatch, rgb):
        from modules import shared

        monkeypatch.setattr(shared, "sd_model", None)
        latent = _safetensors(torch.zeros(4, 8, 8))
        body = {"latent": latent, "picture": encode_picture(np.asarray(rgb().convert("RGBA")))}
        assert client.post(f"{PREFIX}/decode", json={**body, "family": "SD1.5"}).status_code == 200
        refused = client.post(f"{PREFIX}/decode", json=body)
        assert refused.status_code == 422
        assert "No checkpoint is loaded" in refused.json()["detail"]

    @pytest.mark.parametrize(
        ("route", "changes", "expected"),
        [
            ("compose", {"foregroud": "x"}, 'did you mean "foreground"'),
            ("compose", {"foreground": None}, 'no picture "foreground"'),
            ("compose", {"foreground": "/etc/passwd"}, "not base64"),
            ("compose", {"foreground": ""}, 'no picture "foreground"'),
            ("compose", {"foreground": 7}, "foreground picture is of a kind"),
            ("compose", {"foreground": "AAAA"}, "foreground picture cannot be read"),
            ("compose", {"scale": 0}, "The scale is 0"),
            ("compose", {"scale": "big"}, "scale must be a number from 0 to 100"),
            ("compose", {"scale": 100.0, "foreground": [[[0] * 4] * 200] * 200}, "megapixels"),
            ("compose", {"left": 0.5}, "left must be a whole number of pixels"),
            ("compose", {"left": 1e300}, "left must be a whole number of pixels from -1000000 to 1000000"),
            ("compose", {"linear": "maybe"}, "linear must be true or false"),
            ("decode", {"latent": None}, 'no latent "latent"'),
            ("decode", {"latent": 5}, 'no latent "latent"'),
            ("decode", {"latent": "!!!"}, "latent cannot be read"),
            ("decode", {"latent": "AAAA"}, "latent cannot be read"),
            ("decode", {"latent": torch.zeros(3, 8, 8)}, "of shape 3 x 8 x 8"),
            ("decode", {"latent": torch.full((4, 8, 8), float("nan"))}, "no numbers"),
            ("decode", {"latent": torch.zeros(4, 1, 2_000_000, dtype=torch.uint8)}, "megapixels"),
            ("decode", {"decode_passes": 3}, "decode_passes must be one of 8, 4, 2, 1"),
            ("decode", {"family": "SD3"}, "family must be one of"),
            ("decode", {"picture": [[0, 0], [0, 0]]}, "does not belong to a picture of 2x2"),
            ("layers", {"layers": None}, "layers must be a list of objects"),
            ("layers", {"layers": ["x"]}, "layers must be a list of objects"),
            ("layers", {"layers": []}, "no layers to save"),
            ("layers", {"layers": [{"name": "empty"}]}, 'no picture "picture"'),
            ("layers", {"layers": [{"nam": "x"}]}, 'did you mean "name"'),
            ("layers", {"format": "tiff"}, 'format must be one of "ora", "psd"'),
            ("layers", {"width": 5}, "width and height"),
            ("layers", {"width": 900_000, "height": 900_000}, "megapixels"),
            ("encode", {"picture": "nothing.png"}, 'no earlier result "nothing.png"'),
            ("encode", {"picture": None}, 'no picture "picture"'),
            ("encode", {"picture": [[0] * 12] * 12}, "8"),
        ],
    )
    def test_mistakes_are_answered_with_a_sentence(self, client, route, changes, expected):
        picture = encode_picture(np.full((8, 8, 4), 200, np.uint8))
        bodies = {
            "compose": {"foreground": picture, "background": picture},
            "decode": {"latent": _safetensors(torch.zeros(4, 8, 8))},
            "encode": {"picture": picture},
            "layers": {"layers": [{"picture": picture}]},
        }
        tensors = {key: _safetensors(value) for key, value in changes.items() if isinstance(value, torch.Tensor)}
        answer = client.post(f"{PREFIX}/{route}", json={**bodies[route], **changes, **tensors})
        assert answer.status_code == 422
        assert expected in answer.json()["detail"]

    @trials(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
    @given(st.data())
    def test_whatever_is_sent_is_answered_and_nothing_breaks(self, client, data):
        route = data.draw(st.sampled_from(sorted(FIELDS_OF)))
        whole = encode_picture(np.full((8, 8, 4), 200, np.uint8))
        latent = _safetensors(torch.zeros(4, 1, 1))
        plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
        value = st.recursive(
            plain | st.sampled_from([whole, latent, "x.png", "../x.png", [[0, 0], [0, 0]], "psd", "1"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
            max_leaves=6,
        )
        body = data.draw(st.dictionaries(st.sampled_from([*FIELDS_OF[route], "other"]), value))
        answer = client.post(f"{PREFIX}/{route}", json=body)
        assert answer.status_code in {200, 422}, answer.text
        if answer.status_code == 422:
            assert answer.json()["detail"].endswith(".")

    def test_no_json_at_all(self, client):
        assert client.post(f"{PREFIX}/compose", content=b"{").status_code == 422
        assert client.post(f"{PREFIX}/compose", json=[1]).status_code == 422

    def test_a_run_with_a_mistake_carries_what_the_hosts_api_answers_with(self, fake, ask):
        failed = fake.run(ask(FG_TO_BG))
        assert isinstance(failed.error, LayerDiffusionError)
        assert (failed.error.status_code, failed.error.detail) == (422, failed.message)


def _no_options() -> dict[str, str]:
    return {}


def _safetensors(tensor: torch.Tensor) -> str:
    import safetensors.torch

    return base64.b64encode(safetensors.torch.save({"latent": tensor})).decode()


def test_the_script_registers_them(forge):
    from modules import script_callbacks

    for category in ("ui_settings", "infotext_pasted", "after_component", "app_started"):
        callbacks = script_callbacks.callback_map[f"callbacks_{category}"]
        functions = [getattr(entry, "callback", entry) for entry in callbacks]  # the real host wraps them
        assert any("layerdiffusion" in function.__module__ for function in functions), category
