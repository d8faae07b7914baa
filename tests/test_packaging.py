"""What a wheel holds, and that the package finds it in a checkout and in a wheel alike."""

from __future__ import annotations

import gc
import sys
import types
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

import lib_layerdiffusion
from lib_layerdiffusion import places

ROOT = Path(__file__).parent.parent
PROJECT = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(
    (ROOT / "pyproject.toml").read_text(encoding="utf-8")
)


def test_everything_under_models_is_in_the_wheel():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["lib_layerdiffusion.models"]
    names = [path.relative_to(ROOT / "models").as_posix() for path in (ROOT / "models").rglob("*") if path.is_file()]
    assert "catalogue.toml" in names
    assert [name for name in names if not any(fnmatch(name, pattern.replace("**/", "")) for pattern in patterns)] == []


@pytest.mark.parametrize(
    ("package", "folder"),
    [
        ("lib_layerdiffusion.localizations", ROOT / "localizations"),
        ("lib_layerdiffusion.server", ROOT / "lib_layerdiffusion" / "server" / "web"),
    ],
)
def test_what_the_server_gives_out_is_in_the_wheel(package, folder):
    patterns = [pattern.replace("web/**/", "") for pattern in PROJECT["tool"]["setuptools"]["package-data"][package]]
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert len(names) >= 2
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert places.localizations_folder() == ROOT / "localizations"


@pytest.mark.parametrize("inside", [True, False], ids=["wheel", "checkout"])
def test_the_models_are_found(tmp_path, monkeypatch, inside):
    package = tmp_path / "lib_layerdiffusion"
    models = (package if inside else tmp_path) / "models"
    (models / "demo").mkdir(parents=True)
    package.mkdir(exist_ok=True)
    monkeypatch.setattr(places, "__file__", str(package / "places.py"))
    assert places.models_folder() == models
    assert places.bundled_family() is None
    (models / "demo" / "model_index.json").touch()
    assert places.bundled_family() == models / "demo"


@pytest.mark.parametrize("host", ["forge", "neo"])
def test_the_constraints_pin_what_the_commands_of_readme_install(host):
    lines = (ROOT / "tests" / f"constraints-{host}.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    wanted = [*PROJECT["project"]["dependencies"]]
    wanted += PROJECT["project"]["optional-dependencies"]["diffusers"]
    names = {requirement.partition(";")[0].partition(">=")[0].strip().lower() for requirement in wanted}
    assert names - pinned <= {"tqdm", "tomli", "argcomplete"}


@pytest.mark.parametrize("on", [True, False])
def test_loading_the_library_leaves_garbage_collection_as_it_was(monkeypatch, on):
    module = types.ModuleType("library")

    def found(name):
        seen.append((name, gc.isenabled()))
        return object

    module.__getattr__ = found
    seen = []
    monkeypatch.setitem(sys.modules, "lib_layerdiffusion.hosts.diffusers.library", module)
    monkeypatch.delitem(vars(lib_layerdiffusion), "LayerDiffusion", raising=False)
    (gc.enable if on else gc.disable)()
    try:
        assert lib_layerdiffusion.LayerDiffusion is object
        assert ("LayerDiffusion", False) in seen
        assert gc.isenabled() is on
    finally:
        gc.enable()
