"""Settings: parsed once, valid from then on, refused in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from strategies import settings as random_settings

from lib_layerdiffusion.errors import InputError, LayerDiffusionError, ModelError, SettingsError
from lib_layerdiffusion.images.reading import encode_picture
from lib_layerdiffusion.methods import METHODS, Family, Layer
from lib_layerdiffusion.settings.parsing import FIELDS, LatentScale, LayerSettings, ResizeMode, json_schema

FG2BLEND = METHODS["(SDXL) From Foreground to Blending"]
PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)


@given(random_settings())
def test_settings_survive_the_api(settings):
    as_json = json.loads(json.dumps(settings.to_mapping()))
    assert LayerSettings.from_mapping(as_json) == settings
    assert LayerSettings.from_args([as_json, None, "left over from the page"]) == settings
    assert LayerSettings.from_args([as_json[row.name] for row in FIELDS]) == settings


@given(random_settings())
def test_reading_again_changes_nothing(settings):
    assert all(row.read(row.get(settings)) is row.get(settings) or row.layer is None for row in FIELDS)
    assert settings.with_values({}) == settings


def test_the_first_twelve_arguments_are_those_of_the_reference():
    assert [row.old_name for row in FIELDS[:12]] == [
        "enabled",
        "method",
        "weight",
        "ending_step",
        "fg_image",
        "bg_image",
        "blend_image",
        "resize_mode",
        "output_origin",
        "fg_additional_prompt",
        "bg_additional_prompt",
        "blend_additional_prompt",
    ]
    assert not any(row.old_name for row in FIELDS[12:])


def test_positional_arguments_as_the_api_sends_them():
    uri = encode_picture(PICTURE)
    args = [1, "From Foreground to Blending", "0.5", "0.75", uri, None, "", "just resize", "false", " a ", None, "b"]
    settings = LayerSettings.from_args([*args, "4", "sampler latent (2024-08 release)", 0])
    assert settings.method is FG2BLEND
    assert (settings.weight, settings.stop_at, settings.decode_passes) == (0.5, 0.75, 4)
    assert (settings.resize_mode, settings.latent_scale) == (ResizeMode.JUST_RESIZE, LatentScale.SAMPLER)
    assert (settings.enabled, settings.output_origin, settings.preview) == (True, False, False)
    assert [settings.prompts[layer] for layer in Layer] == ["a", "", "b"]
    assert np.array_equal(settings.condition_pictures()[0], PICTURE)
    assert settings == LayerSettings.from_args([*args, 4, LatentScale.SAMPLER, False])


def test_fewer_arguments_and_nulls_mean_defaults():
    plain = LayerSettings(enabled=True)
    assert LayerSettings.from_args([True]) == LayerSettings.from_args([True] + [None] * 14) == plain
    assert LayerSettings.from_args([True, "", " "]) == plain
    assert plain.resize_mode is ResizeMode.CROP_AND_RESIZE
    assert plain.method.label == "(SDXL) Only Generate Transparent Image (Attention Injection)"


def test_defaults_of_a_host_stand_behind_what_is_given():
    host = {"decode_passes": 2, "preview": False}
    assert LayerSettings.from_args([True], defaults=host).decode_passes == 2
    given_too = LayerSettings.from_mapping({"decode_passes": 4, "preview": None}, defaults=host)
    assert (given_too.decode_passes, given_too.preview) == (4, False)


@pytest.mark.parametrize("off", [[], [False], [None], ["False", "no method", "x"], [0, 1, 2, 3, 4, 5], [{}]])
def test_nothing_is_checked_while_switched_off(off):
    assert LayerSettings.from_args(off) == LayerSettings()
    assert LayerSettings.from_mapping({"enabled": False, "nonsense": 1, "weight": "x"}) == LayerSettings()


def test_names_of_the_reference_are_understood():
    old = {"ending_step": 0.5, "fg_image": encode_picture(PICTURE), "blend_additional_prompt": "dog"}
    settings = LayerSettings.from_mapping(old)
    assert settings.enabled
    assert settings.stop_at == 0.5
    assert np.array_equal(settings.pictures[Layer.FOREGROUND], PICTURE)
    assert settings.prompts[Layer.BLENDED] == "dog"


def test_short_method_names_follow_the_loaded_family():
    assert LayerSettings.from_mapping({"method": "transparent"}, family=Family.SD15).method.family is Family.SD15
    assert LayerSettings.from_args([True, "transparent"], family=Family.SDXL).method.family is Family.SDXL
    with pytest.raises(SettingsError, match="say which family"):
        LayerSettings.from_mapping({"method": "transparent"})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"method": "nope"}, r'no method "nope"; use one of: \(SD1.5\) Only.*Blending to Foreground'),
        ({"method": 3}, "Method must be the name of one, not 3"),
        ({"weight": "heavy"}, "Weight must be a number from 0 to 2, not 'heavy'"),
        ({"weight": 2.5}, "Weight must be a number from 0 to 2, not 2.5"),
        ({"weight": "nan"}, "Weight must be a number"),
        ({"weight": True}, "Weight must be a number"),
        ({"weight": [1]}, "Weight must be a number from 0 to 2, not a list"),
        ({"stop_at": -0.1}, "Stop At must be a number from 0 to 1"),
        ({"stop_at": 10**400}, "Stop At must be a number from 0 to 1"),
        ({"resize_mode": "zoom"}, '"Just Resize", "Crop and Resize", "Resize and Fill", not \'zoom\''),
        ({"resize_mode": 1}, "Resize Mode must be one of"),
        ({"output_origin": "maybe"}, "must be true or false, not 'maybe'"),
        ({"enabled": "perhaps"}, "Enabled must be true or false"),
        ({"foreground_prompt": 5}, "Foreground prompt must be text, not 5"),
        ({"decode_passes": 3}, "one of 8, 4, 2, 1, not 3"),
        ({"edge_cleanup": 2}, "Edge clean-up must be a number from 0 to 1, not 2"),
        ({"alpha_low": 0.5}, "Alpha to clear must be a number from 0 to 0.45, not 0.5"),
        ({"alpha_high": 0.5}, "Alpha to fill must be a number from 0.55 to 1, not 0.5"),
        ({"decode_passes": 1.5}, "one of 8, 4, 2, 1"),
        ({"latent_scale": "other"}, "Latent scale must be one of"),
        ({"weigth": 1}, 'no setting "weigth": use "weight"'),
        ({"zzz": 1}, 'no setting "zzz": use enabled, method'),
        ({"stop_at": 1, "ending_step": 1}, '"stop_at" is given twice'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_valid(values, complaint):
    with pytest.raises(SettingsError, match=complaint) as refused:
        LayerSettings.from_mapping(values)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    PLAIN | st.sampled_from([*METHODS, "transparent", "1", "true", "Just Resize", [[0, 0], [0, 0]]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@trials(max_examples=300)
@given(st.dictionaries(st.sampled_from([name for row in FIELDS for name in row.names]) | st.text(max_size=9), JSON))
def test_whatever_the_api_is_sent_is_read_or_refused_with_a_sentence(values):
    try:
        read = LayerSettings.from_mapping(values)
    except LayerDiffusionError as error:
        complaint = str(error)
    else:
        complaint = "."
        assert not read.enabled or LayerSettings.from_mapping(read.to_mapping()) == read
    assert complaint.endswith(".")
    assert "\n" not in complaint


def test_an_object_made_in_python_is_checked_too():
    with pytest.raises(SettingsError, match="Weight"):
        LayerSettings(enabled=True, weight=3)
    with pytest.raises(InputError, match="blended picture is 1x1"):
        LayerSettings(enabled=True, pictures={Layer.BLENDED: np.zeros((1, 1, 4), np.uint8)})
    with pytest.raises(SettingsError, match=f"at most {len(FIELDS)} arguments"):
        LayerSettings.from_args([True] + [None] * len(FIELDS))


def test_values_cannot_be_changed_behind_the_settings_back():
    prompts = {Layer.FOREGROUND: "a"}
    settings = LayerSettings(enabled=True, prompts=prompts)
    prompts[Layer.FOREGROUND] = "b"
    assert settings.prompts[Layer.FOREGROUND] == "a"
    with pytest.raises(TypeError):
        settings.prompts[Layer.FOREGROUND] = "c"  # pyright: ignore[reportIndexIssue]


def test_condition_pictures_come_in_the_order_of_the_method():
    background, blended = PICTURE, PICTURE[::-1]
    settings = LayerSettings(
        enabled=True,
        method=METHODS.find("bg-blend-to-fg"),
        pictures={Layer.BLENDED: blended, Layer.FOREGROUND: PICTURE[:3], Layer.BACKGROUND: background},
    )
    first, second = settings.condition_pictures()
    assert np.array_equal(first, background)
    assert np.array_equal(second, blended)
    assert LayerSettings(enabled=True).condition_pictures() == ()


def test_missing_pictures_are_named():
    settings = LayerSettings(enabled=True, method=METHODS.find("fg-blend-to-bg"))
    assert settings.missing_pictures == (Layer.FOREGROUND, Layer.BLENDED)
    with pytest.raises(
        InputError, match=r'needs a foreground picture and a blended picture: .*"Foreground" and "Blended"'
    ):
        settings.condition_pictures()
    with pytest.raises(InputError, match='needs a blended picture: put one into "Blended"'):
        settings.with_values({"foreground": PICTURE}).condition_pictures()


def test_a_method_of_another_family_is_refused():
    settings = LayerSettings(enabled=True, method=FG2BLEND)
    settings.validate_for(Family.SDXL)
    with pytest.raises(ModelError, match=r"made for SDXL models and the loaded one is SD1\.5") as refused:
        settings.validate_for(Family.SD15)
    assert isinstance(refused.value, LayerDiffusionError)


def test_one_value_can_be_replaced_for_a_plot():
    settings = LayerSettings(enabled=True, method=FG2BLEND, pictures={Layer.FOREGROUND: PICTURE})
    changed = settings.with_values({"weight": "0.25", "method": "fg-blend-to-bg"})
    assert (changed.weight, changed.method.name) == (0.25, "fg-blend-to-bg")
    assert changed.pictures[Layer.FOREGROUND] is settings.pictures[Layer.FOREGROUND]
    assert changed != settings
    with pytest.raises(SettingsError, match="Weight"):
        settings.with_values({"weight": 9})


def test_the_schema_describes_what_is_read():
    schema = json.loads(json.dumps(json_schema()))
    assert list(schema["properties"]) == [row.name for row in FIELDS]
    assert schema["properties"]["method"]["enum"] == list(METHODS)
    assert schema["properties"]["weight"] | {"description": ""} == {
        "title": "Weight",
        "description": "",
        "type": "number",
        "minimum": 0,
        "maximum": 2,
        "default": 1.0,
    }
    defaults = {name: entry["default"] for name, entry in schema["properties"].items()}
    assert LayerSettings.from_mapping({**defaults, "enabled": True}) == LayerSettings(enabled=True)
