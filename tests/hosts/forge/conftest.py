"""A host with the script in it: fake by default, real with --forge-root."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.networks import precision

FAKE = Path(__file__).resolve().parents[2] / "fake_forge"


PACKAGES = {"forge": "forge", "neo": "forge", "reforge": "reforge", "classic": "reforge"}
"""Host -> the folder below `kin` that has its backend's package."""


def _play(name: str) -> None:
    """Let this process have the modules of a host."""
    for folder in (FAKE, FAKE / "kin" / PACKAGES[name], FAKE / "kin" / name):
        sys.path.insert(0, str(folder))
    import_module("kin").prepare()


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    root: Path | None = request.config.getoption("--forge-root")
    folder = tmp_path_factory.mktemp("forge")
    if root is not None:
        from tests.hosts.forge.hosts import RealForge

        return RealForge(root.resolve(), folder)
    _play(request.config.getoption("--fake-host"))
    from tests.hosts.forge.hosts import FakeForge

    return FakeForge(folder)


@pytest.fixture(autouse=True)
def _decoding_in_float32(monkeypatch):
    """On every CPU: what a random decoder makes of a batch's last bit would be many levels in bfloat16."""
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: False)


@pytest.fixture
def forge(host):
    """The host with an SD1.5 checkpoint and ordinary options."""
    host.use("sd15")
    host.option("samples_format", "png")
    host.option("stealth_pnginfo_option", "Alpha")
    return host


@pytest.fixture
def fake(forge):
    """For what cannot be asked of a real host."""
    if forge.is_real:
        pytest.skip("needs the fake host")
    return forge


@pytest.fixture
def real(forge):
    """For what the fake host does not have."""
    if not forge.is_real:
        pytest.skip("needs a real host: --forge-root")
    return forge


@pytest.fixture
def row(real, request):
    """Writes a row of docs/alpha.md: what was done, with which technique, what came of it."""
    target = request.config.getoption("--alpha-matrix")

    def write(done: str, technique: str, outcome: str) -> None:
        if target is not None:
            entry = {"host": real.name, "done": done, "technique": technique, "outcome": outcome}
            with target.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    return write


@pytest.fixture(scope="session")
def offsets_folder(host, tmp_path_factory):
    """Layer files of the SDXL methods for an SD1.5 UNet."""
    from tests.hosts.forge.host_files import write_offsets

    folder = tmp_path_factory.mktemp("offsets")
    models = host.forge / "models"
    write_offsets(models / "Stable-diffusion" / "random_sd15.safetensors", models / "layer_model", folder)
    return folder


@pytest.fixture
def weight_offsets(real, monkeypatch, request):
    """Lets the loaded SD1.5 checkpoint pass for SDXL: methods of weight offsets run on it when this is called."""

    def begin() -> None:
        from lib_layerdiffusion.hosts.forge import family
        from lib_layerdiffusion.hosts.forge.script import LayerDiffusionScript
        from lib_layerdiffusion.methods import Family
        from lib_layerdiffusion.weights import WeightStore

        monkeypatch.setattr(family, "family_of", lambda _: Family.SDXL)
        store = WeightStore([request.getfixturevalue("offsets_folder")])
        monkeypatch.setattr(LayerDiffusionScript.models(), "_store", store)
        monkeypatch.setattr(LayerDiffusionScript.models(), "_patchers", {})

    return begin


@pytest.fixture
def method_of(weight_offsets):
    """Technique in the words of docs/alpha.md -> a method of it, made ready to run."""
    from tests.hosts.forge.matrix_table import METHODS_OF, OFFSETS

    def choose(technique: str) -> str:
        if technique == OFFSETS:
            weight_offsets()
        return METHODS_OF[technique]

    return choose


@pytest.fixture(scope="session")
def ask():
    """Settings by name -> the script's positional arguments."""

    from tests.hosts.forge.hosts import arguments

    return arguments


def _field(width: int, height: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [127 + 120 * np.sin(x / (5 + seed + i) + i) * np.cos(y / (9 - i)) for i in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def rgba():
    """Makes a picture with a soft disc as its alpha."""

    def make(side: int = 64, seed: int = 1) -> Image.Image:
        y, x = np.mgrid[0:side, 0:side]
        distance = np.hypot(x - side / 2, y - side / 2)
        alpha = np.clip((side * 0.35 - distance) * 20, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([_field(side, side, seed), alpha]))

    return make


@pytest.fixture(scope="session")
def rgb():
    """Makes a picture without alpha."""

    def make(side: int = 64, seed: int = 2) -> Image.Image:
        return Image.fromarray(_field(side, side, seed))

    return make
