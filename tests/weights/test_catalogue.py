from __future__ import annotations

import pytest

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.weights import Catalogue, Role, find_file


def test_the_fourteen_published_files_are_listed():
    catalogue = Catalogue.load()
    assert len(catalogue) == 14
    counts = {(f, r): sum((x.family, x.role) == (f, r) for x in catalogue.values()) for f in Family for r in Role}
    assert counts == {
        (Family.SD15, Role.LAYER_MODEL): 4,
        (Family.SDXL, Role.LAYER_MODEL): 6,
        **{(family, role): 1 for family in Family for role in (Role.ENCODER, Role.DECODER)},
    }
    assert {file.repository for file in catalogue.values()} == {"LayerDiffusion/layerdiffusion-v1"}
    assert catalogue["layer_xl_fg2ble"].file_name == "layer_xl_fg2ble.safetensors"


def test_an_entry_can_say_more_than_the_source(tmp_path):
    path = tmp_path / "catalogue.toml"
    path.write_text(
        '[source]\nrepository = "a/b"\n[[file]]\nname = "x"\nfamily = "SDXL"\nrole = "decoder"\n'
        'size = 7\nsha256 = "AB"\nrepository = "c/d"\nrevision = "v2"\n'
    )
    (file,) = Catalogue.load(path).values()
    assert (file.repository, file.revision, file.size, file.sha256) == ("c/d", "v2", 7, "ab")


@pytest.mark.parametrize("text", ["", "not toml", '[source]\n[[file]]\nname = "x"\nfamily = "SD9"\nrole = "decoder"\n'])
def test_a_broken_catalogue_is_refused(tmp_path, text):
    path = tmp_path / "catalogue.toml"
    path.write_text(text)
    with pytest.raises(WeightsError, match="install the extension anew"):
        Catalogue.load(path)
    with pytest.raises(WeightsError):
        Catalogue.load(tmp_path / "missing.toml")


def test_files_are_found_by_name_in_the_order_of_the_folders(tmp_path):
    catalogue = Catalogue.load()
    file = catalogue.find("layer_xl_fg2ble.safetensors")
    assert file is catalogue["layer_xl_fg2ble"]
    with pytest.raises(
        WeightsError, match=r"use one of: layer_xl_transparent_attn, .*layer_sd15_vae_transparent_decoder"
    ):
        catalogue.find("layer_flux")
    first, second = tmp_path / "1", tmp_path / "2"
    assert find_file(file, [first, second]) is None
    for folder in (second, first):
        folder.mkdir()
        (folder / file.file_name).touch()
        assert find_file(file, [first, second]) == folder / file.file_name
