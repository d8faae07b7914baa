"""The house rules that imports can break."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lib_layerdiffusion"
HOST_MODULES = {"backend", "modules", "modules_forge", "ldm_patched"}
CORE = ("networks", "transparency.py", "injection.py", "images.py", "methods.py", "settings.py", "errors.py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def python_files(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = PACKAGE / place
        found += [path] if path.suffix else sorted(path.rglob("*.py"))
    return found


@pytest.mark.parametrize("path", [p for p in sorted(PACKAGE.rglob("*.py")) if "hosts" not in p.parts], ids=str)
def test_only_hosts_import_a_host(path):
    assert not imported(path) & HOST_MODULES


@pytest.mark.parametrize("path", python_files(*CORE), ids=str)
def test_the_core_needs_no_page_and_no_pipeline(path):
    assert not imported(path) & (HOST_MODULES | {"gradio", "diffusers", "transformers"})


def test_the_package_itself_imports_nothing_heavy():
    script = "import sys, lib_layerdiffusion, lib_layerdiffusion.methods; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_files_and_functions_fit_a_screen(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
