"""install.py adds what is missing, moves no version, and says why where it cannot."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest


@pytest.fixture
def installer():
    spec = spec_from_file_location("layerdiffusion_install", Path(__file__).parents[1] / "install.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: what it was called with, and what it answers."""

    class Pip:
        code, error = 0, ""

        def __init__(self):
            self.calls = []

        def __call__(self, command, **_):
            constraint = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8")
            self.calls.append((command, constraint))
            return subprocess.CompletedProcess(command, self.code, "", self.error)

    stand_in = Pip()
    monkeypatch.setattr(subprocess, "run", stand_in)
    return stand_in


def test_nothing_is_done_where_everything_is_there(installer, pip, capsys):
    installer.main()
    assert not pip.calls
    assert not capsys.readouterr().out


def test_only_the_missing_package_is_installed_and_no_version_moves(installer, pip, monkeypatch):
    monkeypatch.setattr(installer, "find_spec", lambda module: None if module == "cv2" else object())
    installer.main()
    ((command, constraint),) = pip.calls
    assert command[-1:] == ["opencv-python"]
    assert "huggingface-hub" not in command
    assert f"numpy=={version('numpy')}" in constraint.splitlines()


def test_a_failure_is_one_line_with_the_reason_and_the_remedy(installer, pip, monkeypatch, capsys):
    monkeypatch.setattr(installer, "find_spec", lambda module: None)
    pip.code, pip.error = 1, "noise\nERROR: no space left on device\n"
    installer.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert "no space left on device" in line
    assert "pip install opencv-python huggingface-hub" in line
