"""Infotext: written once, read from both extensions, never a reason to fail."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import settings as random_settings

from lib_layerdiffusion.images.reading import picture_hash
from lib_layerdiffusion.methods import METHODS, Family, Layer
from lib_layerdiffusion.settings.infotext import format_parameters, from_infotext, parse_parameters, to_infotext
from lib_layerdiffusion.settings.parsing import FIELDS, LayerSettings

BLOCKS = (Path(__file__).parents[1] / "data" / "reference_infotexts.txt").read_text(encoding="utf-8").splitlines()
"""The parameters of the 22 pictures with which the reference extension is checked, as its host wrote them."""
OTHERS = {"Steps": "20", "Sampler": "Euler a", "Size": "512x512", "Lora hashes": '"a: 1, b: 2"'}
PICTURE = np.random.default_rng(1).integers(0, 256, (4, 4, 4), dtype=np.uint8)


def reference_line(
    method: str, *, ending_step: str = "1", fg: bool = False, blend: bool = False, tail: str = ""
) -> str:
    """A block as the reference extension writes it; two blocks of its README differ by the three prompts at the end."""
    return (
        "Steps: 20, Sampler: DPM++ 2M SDE Karras, Size: 896x1152, layerdiffusion_enabled: True, "
        f"layerdiffusion_method: {method}, layerdiffusion_weight: 1, layerdiffusion_ending_step: {ending_step}, "
        f"layerdiffusion_fg_image: {fg}, layerdiffusion_bg_image: False, layerdiffusion_blend_image: {blend}, "
        f"layerdiffusion_resize_mode: Crop and Resize, {tail}Version: f0.0.17v1.8.0rc-latest-269-gef35383b"
    )


@given(random_settings(with_pictures=False))
def test_settings_survive_an_infotext(settings):
    text = "a prompt, with commas\nNegative prompt: b: c\n" + format_parameters({**OTHERS, **to_infotext(settings)})
    restored = from_infotext(parse_parameters(text))
    assert restored.settings == settings
    assert restored.ignored == ()


@given(random_settings())
def test_keys_and_values_suit_the_hosts(settings):
    written = to_infotext(settings)
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in written)
    assert from_infotext(written).ignored == ()
    used = {layer: picture for layer, picture in settings.pictures.items() if layer in settings.method.inputs}
    expected = {layer: picture_hash(picture) for layer, picture in used.items() if picture is not None}
    assert from_infotext(written).picture_hashes == expected


def test_defaults_are_left_out():
    assert to_infotext(LayerSettings(enabled=True)) == {
        "LayerDiffusion method": "(SDXL) Only Generate Transparent Image (Attention Injection)"
    }
    assert to_infotext(LayerSettings()) == {}
    changed = LayerSettings(enabled=True, weight=0.5, preview=False, prompts={Layer.BLENDED: "a, b"})
    assert to_infotext(changed) == {
        "LayerDiffusion method": changed.method.label,
        "LayerDiffusion weight": "0.5",
        "LayerDiffusion blended prompt": "a, b",
        "LayerDiffusion preview": "False",
    }


def test_no_key_is_taken_twice():
    keys = [key for row in FIELDS for key in (row.infotext, row.old_infotext) if key]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("old", [label for row in METHODS.values() for label in (row.label, *row.old_labels)])
def test_blocks_of_the_reference_restore(old):
    restored = from_infotext(parse_parameters(reference_line(old)))
    assert restored.settings == LayerSettings(enabled=True, method=METHODS[old])
    assert (restored.ignored, dict(restored.picture_hashes)) == ((), {})


@pytest.mark.parametrize("number", range(22))
def test_the_published_pictures_restore(number):
    """Read by rules of their own here: a line of plain values without commas, keys as the extension named them."""
    line = BLOCKS[number]
    written = dict(re.findall(r"layerdiffusion_(\w+): ([^,]*),", line))
    restored = from_infotext(parse_parameters(f"an apple: red, on a table\nNegative prompt: bad, ugly\n{line}"))
    settings = restored.settings
    assert restored.ignored == ()
    assert written["method"] in {settings.method.label, *settings.method.old_labels}
    assert settings.method.family is (Family.SD15 if "realisticVision" in line else Family.SDXL)
    assert (settings.enabled, settings.weight) == (True, 1.0)
    assert settings.stop_at == float(written["ending_step"])
    assert settings.resize_mode.value == written["resize_mode"]
    names = {"fg": Layer.FOREGROUND, "bg": Layer.BACKGROUND, "blend": Layer.BLENDED}
    assert set(restored.picture_hashes) == {names[n] for n in names if written[f"{n}_image"] == "True"}
    assert all(settings.prompts[names[n]] == written.get(f"{n}_additional_prompt", "").strip() for n in names)


def test_the_published_pictures_cover_most_methods():
    used = Counter(from_infotext(parse_parameters(line)).settings.method.name for line in BLOCKS)
    assert used == {
        "transparent": 10,
        "everything": 5,
        "bg-to-fg": 2,
        "fg-to-bg": 2,
        "bg-to-blend": 1,
        "fg-to-blend": 1,
        "fg-blend-to-bg": 1,
    }


def test_a_block_of_the_reference_with_pictures_and_prompts():
    tail = "layerdiffusion_fg_additional_prompt: apple, layerdiffusion_bg_additional_prompt: floor in room, "
    tail += "layerdiffusion_blend_additional_prompt: , "
    line = reference_line(
        "From Foreground and Blending to Background", ending_step="0.5", fg=True, blend=True, tail=tail
    )
    restored = from_infotext(parse_parameters(line))
    assert restored.settings.stop_at == 0.5
    assert [restored.settings.prompts[layer] for layer in Layer] == ["apple", "floor in room", ""]
    assert restored.picture_hashes == {Layer.FOREGROUND: "", Layer.BLENDED: ""}
    assert restored.is_picture_of(Layer.FOREGROUND, PICTURE)
    assert not restored.is_picture_of(Layer.BACKGROUND, PICTURE)


def test_a_restored_form_knows_its_picture():
    settings = LayerSettings(enabled=True, method=METHODS.find("bg-to-blend"), pictures={Layer.BACKGROUND: PICTURE})
    restored = from_infotext(to_infotext(settings))
    assert restored.settings.missing_pictures == (Layer.BACKGROUND,)
    assert restored.is_picture_of(Layer.BACKGROUND, PICTURE)
    assert not restored.is_picture_of(Layer.BACKGROUND, PICTURE[::-1])


def test_ours_wins_over_the_old_key_and_false_switches_off():
    both = {"layerdiffusion_method": "From Background to Blending", "LayerDiffusion method": "everything"}
    assert from_infotext(both).settings.method.name == "everything"
    assert from_infotext({**both, "layerdiffusion_enabled": "False"}).settings == LayerSettings()


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"LayerDiffusion weight": "heavy"}, "Weight must be a number"),
        ({"LayerDiffusion weight": "99"}, "Weight must be a number"),
        ({"LayerDiffusion resize mode": "Crop and"}, "Resize Mode must be one of"),
        ({"LayerDiffusion foreground": "12"}, "foreground picture cannot be recognised"),
        ({"LayerDiffusion sparkle": "1"}, '"LayerDiffusion sparkle" is no setting'),
        ({"LayerDiffusion decode passes": "7"}, "Decode passes must be one of"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_reported(edit, complaint):
    good = {"LayerDiffusion method": "fg-to-blend", "LayerDiffusion stop at": "0.5"}
    restored = from_infotext({**OTHERS, **good, **edit})
    assert restored.settings == LayerSettings(enabled=True, method=METHODS.find("fg-to-blend"), stop_at=0.5)
    assert len(restored.ignored) == 1
    assert complaint in restored.ignored[0]


def test_without_a_known_method_it_stays_off():
    assert from_infotext(OTHERS) == from_infotext({})
    assert from_infotext(OTHERS).ignored == ()
    for lost in ({"LayerDiffusion weight": "0.5"}, {"LayerDiffusion method": "(SDXL) From Fore"}):
        restored = from_infotext(lost)
        assert restored.settings == LayerSettings()
        assert "stays off" in restored.ignored[-1]


@given(random_settings(), st.integers(0, 400), st.integers(0, 400), st.text(max_size=5))
def test_cut_and_edited_text_never_fails(settings, start, end, inserted):
    line = format_parameters({**OTHERS, **to_infotext(settings)})
    edited = line[:start] + inserted + line[end:]
    restored = from_infotext(parse_parameters(edited))
    assert restored.settings.enabled == ("method" in restored.settings.to_mapping() and restored.settings.enabled)
    assert all(sentence.endswith(".") for sentence in restored.ignored)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][\w \-/]*[\w/\-]", fullmatch=True), st.text(max_size=20), max_size=5))
def test_lines_are_read_as_they_were_written(values):
    assert parse_parameters(format_parameters(values)) == {
        key: value for key, value in values.items() if re.fullmatch(r"\w[\w \-/]+", key)
    }
