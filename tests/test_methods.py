"""The method table against the facts of the published files."""

from __future__ import annotations

import pytest

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family, Layer, Technique
from lib_layerdiffusion.weights import Catalogue, Role

F, B, M = Layer.FOREGROUND, Layer.BACKGROUND, Layer.BLENDED
FACTS = {
    "(SD1.5) Only Generate Transparent Image (Attention Injection)": ("layer_sd15_transparent_attn", (), (F,)),
    "(SD1.5) From Foreground to Background (need batch size 2)": ("layer_sd15_fg2bg", (F,), (B, M)),
    "(SD1.5) From Background to Foreground (need batch size 2)": ("layer_sd15_bg2fg", (B,), (F, M)),
    "(SD1.5) Generate Everything Together (need batch size 3)": ("layer_sd15_joint", (), (F, B, M)),
    "(SDXL) Only Generate Transparent Image (Attention Injection)": ("layer_xl_transparent_attn", (), (F,)),
    "(SDXL) Only Generate Transparent Image (Conv Injection)": ("layer_xl_transparent_conv", (), (F,)),
    "(SDXL) From Foreground to Blending": ("layer_xl_fg2ble", (F,), (M,)),
    "(SDXL) From Foreground and Blending to Background": ("layer_xl_fgble2bg", (F, M), (B,)),
    "(SDXL) From Background to Blending": ("layer_xl_bg2ble", (B,), (M,)),
    "(SDXL) From Background and Blending to Foreground": ("layer_xl_bgble2fg", (B, M), (F,)),
}


def test_the_rows_say_what_the_files_are():
    assert {row.label: (row.weights, row.inputs, row.frames) for row in METHODS.values()} == FACTS
    for label, row in METHODS.items():
        assert label.startswith(f"({row.family})")
        sharing = row.technique is Technique.ATTENTION_SHARING
        assert sharing == (row.family is Family.SD15)


def test_every_file_a_method_reads_is_published():
    catalogue = Catalogue.load()
    for row in METHODS.values():
        for name in row.file_names:
            assert catalogue[name].family is row.family
        assert catalogue[row.weights].role is Role.LAYER_MODEL
    for family, pair in VAE_FILES.items():
        assert (catalogue[pair.encoder].role, catalogue[pair.encoder].family) == (Role.ENCODER, family)
        assert (catalogue[pair.decoder].role, catalogue[pair.decoder].family) == (Role.DECODER, family)


@pytest.mark.parametrize(
    ("old", "label"),
    [
        (
            "Only Generate Transparent Image (Attention Injection)",
            "(SDXL) Only Generate Transparent Image (Attention Injection)",
        ),
        ("From Background to Blending", "(SDXL) From Background to Blending"),
        ("(SD1.5) Generate Everything Together", "(SD1.5) Generate Everything Together (need batch size 3)"),
        ("(SD1.5) From Foreground to Background", "(SD1.5) From Foreground to Background (need batch size 2)"),
    ],
)
def test_labels_of_earlier_releases_are_known(old, label):
    assert METHODS[old].label == METHODS.find(f" {old} ").label == label
    assert old not in list(METHODS)


def test_no_old_label_means_two_methods():
    old = [label for row in METHODS.values() for label in row.old_labels]
    assert len(old) == len(set(old)) == 9
    assert not set(old) & set(METHODS)


def test_short_names_need_a_family_only_where_two_share_them():
    assert METHODS.find("transparent", Family.SD15).family is Family.SD15
    assert METHODS.find("everything").weights == "layer_sd15_joint"
    with pytest.raises(SettingsError, match=r"SD1\.5 and SDXL"):
        METHODS.find("transparent")
    with pytest.raises(SettingsError, match="use one of: transparent, fg-to-bg, bg-to-fg, everything"):
        METHODS.find("fg-to-blend", Family.SD15)
    with pytest.raises(SettingsError, match="From Background and Blending"):
        METHODS.find("nothing")
    with pytest.raises(KeyError):
        METHODS["nothing"]


def test_short_names_are_unique_within_a_family():
    for family in Family:
        names = [row.name for row in METHODS.of_family(family)]
        assert len(names) == len(set(names))
        assert all(METHODS.find(name, family).name == name for name in names)


def test_frames_of_a_batch():
    joint = METHODS.find("everything")
    assert [joint.layer_of(i) for i in range(6)] == [F, B, M, F, B, M]
    assert [joint.is_rgba(i) for i in range(4)] == [True, False, False, True]
    assert [joint.padded_batch(n) for n in (1, 2, 3, 4, 6)] == [3, 3, 3, 6, 6]
    background = METHODS.find("fg-to-bg")
    assert not background.has_alpha
    assert not any(background.is_rgba(i) for i in range(4))
    assert background.file_names == ("layer_sd15_fg2bg",)
    assert METHODS.find("fg-blend-to-bg").padded_batch(5) == 5


def test_the_outcome_in_words():
    assert METHODS.find("everything").outcome == "3 pictures: foreground with alpha, background, blended"
    assert METHODS.find("bg-to-blend").outcome == "1 picture: blended"


@pytest.mark.parametrize(
    ("family", "done", "given", "goes_on"),
    [
        (Family.SDXL, "transparent", Layer.FOREGROUND, "fg-to-blend"),
        (Family.SDXL, "fg-to-blend", Layer.BLENDED, "fg-blend-to-bg"),
        (Family.SDXL, "bg-to-blend", Layer.BLENDED, "bg-blend-to-fg"),
        (Family.SDXL, "fg-blend-to-bg", Layer.BACKGROUND, "bg-blend-to-fg"),
        (Family.SDXL, "transparent", Layer.BLENDED, None),
        (Family.SD15, "transparent", Layer.FOREGROUND, "fg-to-bg"),
        (Family.SD15, "everything", Layer.BACKGROUND, "bg-to-fg"),
        (Family.SD15, "fg-to-bg", Layer.BLENDED, None),
    ],
)
def test_a_result_leads_to_the_next_method(family, done, given, goes_on):
    step = METHODS.next_step(METHODS.find(done, family), given)
    assert (step and step.name) == goes_on
    assert step is None or (step.family is family and given in step.inputs)
