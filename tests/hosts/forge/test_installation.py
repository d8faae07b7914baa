"""An installation read without starting it, and where layer files are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge import needs
from lib_layerdiffusion.hosts.forge.folders import FOLDER, comfy_folders, layer_folders
from lib_layerdiffusion.hosts.forge.installation import Installation

NAMES = ["models", "with space", "模型", "a#b", "100%", "%20"]


def define(root: Path, name: str) -> None:
    """Write a module that gives `name`, module:attribute, as hosts write it: under conditions, in classes."""
    module, _, path = name.partition(":")
    file = root.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    head, _, method = path.partition(".")
    text = file.read_text() if file.is_file() else ""
    line = f"    def {method}(self): pass\n"
    if method and f"class {head}:\n" in text:
        text = text.replace(f"class {head}:\n", f"class {head}:\n{line}")
    else:
        text += f"class {head}:\n{line}" if method else f"try:\n    {head} = None\nexcept Exception:\n    pass\n"
    file.write_text(text)


@pytest.fixture
def host(tmp_path):
    """Makes an installation of one backend's kind."""

    def make(package: str | None = "backend", without: str = "") -> Installation:
        root = tmp_path / "webui"
        (root / "modules").mkdir(parents=True)
        (root / "launch.py").touch()
        backend = needs.BACKENDS[package] if package else ()
        for name in (*needs.ESSENTIAL, *backend, *(name for row in needs.FEATURES for name in row.names)):
            if name != without:
                define(root, name)
        return Installation(root)

    return make


@pytest.mark.parametrize(
    ("package", "extra", "expected"),
    [
        ("backend", "backend.patcher.base:ModelPatcher.set_model_vae_regulation", "Forge"),
        ("backend", "", "Forge Neo"),
        ("backend", "modules_forge.packages.comfy.weight_adapter:WeightAdapterBase", "Forge Neo"),
        ("ldm_patched", "ldm_patched.modules.weight_adapter:WeightAdapterBase", "reForge"),
        ("ldm_patched", "", "Forge classic"),
    ],
)
def test_the_host_is_recognised_by_what_is_there(host, package, extra, expected):
    found = host(package)
    if extra:
        define(found.root, extra)
    found = Installation(found.root)
    assert (found.name, found.problem, dict(found.lost)) == (expected, "", {})


def test_what_is_no_webui_is_refused(tmp_path):
    with pytest.raises(HostError, match=r"launch\.py"):
        Installation(tmp_path)


def test_another_webui_works_with_nothing(host):
    found = host(None)
    assert "A1111" in found.name
    assert "none of them" in found.problem


@pytest.mark.parametrize("name", [*needs.ESSENTIAL, *needs.BACKENDS["backend"]])
def test_a_lost_function_is_named(host, name):
    assert name.replace(":", ".") in host(without=name).problem


def test_a_lost_feature_leaves_the_rest(host):
    found = host(without="modules.prompt_parser:SdConditioning")
    assert found.problem == ""
    assert dict(found.lost) == {"prompts of single layers": ["modules.prompt_parser:SdConditioning"]}


def test_release_and_extensions(host):
    found = host()
    (found.root / "modules_forge").mkdir(exist_ok=True)
    (found.root / "modules_forge" / "forge_version.py").write_text('version = "neo"\nrelease = "2.26"\n')
    for name in ("ours", "theirs"):
        (found.root / "extensions" / name / "lib_layerdiffusion").mkdir(parents=True)
    (found.root / "extensions" / "another").mkdir()
    assert found.release == "neo 2.26"
    assert [path.name for path in found.extensions] == ["ours", "theirs"]


@pytest.mark.parametrize("name", NAMES)
def test_folders_by_flags_of_the_starter(host, tmp_path, name):
    found = host()
    place = tmp_path / name
    arguments = f"--api --forge-ref-comfy-home '{place}' --models-dir='{tmp_path / 'own'}'"
    (found.root / "webui-user.sh").write_text(
        f'#export COMMANDLINE_ARGS="--x"\nexport COMMANDLINE_ARGS="{arguments}"\n'
    )
    folders = Installation(found.root).folders
    assert folders == [tmp_path / "own" / FOLDER, place / "models" / FOLDER]


def test_the_settings_page_of_an_installation_counts(host, tmp_path):
    found = host()
    (found.root / "config.json").write_text(json.dumps({"layerdiffusion_models_dir": str(tmp_path / "层")}))
    assert found.folders[0] == tmp_path / "层"


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_and_its_list_of_folders(tmp_path, name):
    listing = tmp_path / "extra_model_paths.yaml"
    quoted = json.dumps(name, ensure_ascii=False)
    listing.write_text(
        f"# a comment\ncomfyui:\n    base_path: {quoted}\n    checkpoints: models/checkpoints\n"
        f"    {FOLDER}: layers/{name if '#' not in name else 'x'}\nother:\n    base_path: /elsewhere  # spare\n",
        encoding="utf-8",
    )
    base = tmp_path / name
    own = base / "layers" / (name if "#" not in name else "x")
    assert list(comfy_folders(listing)) == [
        base / FOLDER,
        base / "models" / FOLDER,
        own,
        Path("/elsewhere") / FOLDER,
        Path("/elsewhere/models") / FOLDER,
    ]
    assert list(comfy_folders(tmp_path / "nothing.yaml")) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_comfyui_is_found_and_nothing_is_fetched(tmp_path, name):
    from lib_layerdiffusion.weights import WeightStore

    home, linked = tmp_path / name / "ComfyUI", tmp_path / "link"
    (home / "models" / FOLDER).mkdir(parents=True)
    linked.symlink_to(home, target_is_directory=True)
    folders = layer_folders(tmp_path / "forge" / "models", {"forge_ref_comfy_home": linked})
    store = WeightStore(folders, may_fetch=False)
    file = store.catalogue.find("layer_sd15_joint")
    (home / "models" / FOLDER / file.file_name).touch()
    assert store.path("layer_sd15_joint") == linked / "models" / FOLDER / file.file_name
    assert store.folders[0] == tmp_path / "forge" / "models" / FOLDER


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    from lib_layerdiffusion.errors import WeightsError
    from lib_layerdiffusion.weights import WeightStore, download

    def fetched(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr(download, "_partial_of", fetched)
    (tmp_path / "taken").touch()  # permissions do not hold for root, a file in the folder's place does
    with pytest.raises(WeightsError, match="cannot be written to"):
        WeightStore(layer_folders(tmp_path / "taken", {})).path("layer_sd15_joint")
