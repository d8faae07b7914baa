"""The house rules that imports can break: floors, circles, and who may know a host or a page."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lib_layerdiffusion"
NAME = PACKAGE.name
FLOORS = (
    {"errors", "garbage", "places", "version"},
    {"images", "networks", "methods"},
    {"settings", "transparency"},
    {"unet", "interface"},
    {"weights", "training"},
    {"engine"},
    {"server"},
    {"hosts"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
)
"""An import goes down, or stays in its room."""
HOST_MODULES = {"backend", "modules", "modules_forge", "ldm_patched"}
LIBRARIES = {"gradio", "diffusers", "transformers"}
CORE = (
    "errors",
    "garbage",
    "places",
    "version",
    "methods",
    "transparency",
    "images",
    "networks",
    "settings",
    "unet",
    "weights",
    "engine",
)
"""Rooms that know no host's module, no page's library and no pipeline's."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Modules and names that a file imports anywhere: in functions and under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they lead"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    found: set[str] = set()
    for name in imports(FILES[module]):
        if name.split(".")[0] == NAME:
            known = name if name in FILES else name.rpartition(".")[0]
            assert known in FILES, f"{module} imports {name}, which is nowhere"
            found.add(known)
    return found - {module}


def room_of(module: str) -> str:
    """The folder or file on the top level that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def floor_of(module: str) -> int:
    room = room_of(module)
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_floor_and_imports_go_down(module):
    up = [
        other
        for other in own_imports(module)
        if room_of(other) != room_of(module) and floor_of(other) >= floor_of(module)
    ]
    assert not up


def test_there_is_no_circle():
    waiting = {module: own_imports(module) for module in FILES}
    while ready := {module for module, others in waiting.items() if not others & waiting.keys()}:
        waiting = {module: others for module, others in waiting.items() if module not in ready}
    assert not waiting


@pytest.mark.parametrize("module", FILES)
def test_only_hosts_import_a_host(module):
    heads = {name.split(".")[0] for name in imports(FILES[module])}
    if not module.startswith(f"{NAME}.hosts.forge"):
        assert not heads & HOST_MODULES
    if room_of(module) in CORE:
        assert not heads & LIBRARIES


def test_each_room_says_what_lives_there():
    for module, path in FILES.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), module


def run_python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_itself_imports_nothing_heavy():
    assert run_python(f"import sys, {NAME}, {NAME}.methods, {NAME}.cli; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("room", ["images", "settings"])
def test_pictures_and_settings_need_no_torch(room):
    assert run_python(f"import sys, {NAME}.{room}; print('torch' in sys.modules)") == "False"


def test_the_public_names_are_where_they_are_documented():
    script = (
        f"from {NAME} import LayerDiffusion; from {NAME}.networks import TransparentDecoder, TransparentEncoder;"
        f"from {NAME}.images import ResizeMode, condition_image, pad_rgb; from {NAME}.methods import METHODS;"
        f"from {NAME}.transparency import LatentTransparency; print(LayerDiffusion.__name__)"
    )
    pytest.importorskip("diffusers")
    assert run_python(script) == "LayerDiffusion"


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_fit_a_screen(module):
    source = FILES[module].read_text(encoding="utf-8")
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
