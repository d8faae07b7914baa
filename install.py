"""Adds what Forge lacks; Forge runs this before it starts. Nothing that is installed already is moved."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

WANTED = {"cv2": "opencv-python", "huggingface_hub": "huggingface-hub"}
"""Module -> package. Everything else that the extension imports is part of Forge."""


def missing_packages() -> list[str]:
    """Packages whose module is nowhere; another build of the same module (headless, contrib) will do."""
    return [package for module, package in WANTED.items() if find_spec(module) is None]


def pins() -> str:
    """A pip constraint for everything that is installed, so that no version changes."""
    found = {item.metadata["Name"]: item.version for item in distributions() if item.metadata["Name"]}
    # A local build ("+cu121") is in no index, but its public version is what other packages ask for.
    return "\n".join(f"{name}=={version}" for name, version in sorted(found.items()) if "+" not in version)


def install(packages: list[str]) -> str:
    """Install `packages` beside what there is; returns why it failed, "" where it did not."""
    with tempfile.TemporaryDirectory() as folder:
        constraint = Path(folder) / "installed.txt"
        constraint.write_text(pins(), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--prefer-binary",
            "--constraint",
            str(constraint),
            *packages,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1] if lines else f"pip ended with {done.returncode}")


def main() -> None:
    """Do nothing where nothing is missing."""
    packages = missing_packages()
    if not packages:
        return
    print(f"LayerDiffusion: installing {', '.join(packages)}")
    reason = install(packages)
    if reason:
        by_hand = f'"{sys.executable}" -m pip install {" ".join(packages)}'
        print(f"LayerDiffusion: {', '.join(packages)} could not be installed ({reason}); run by hand: {by_hand}")


if __name__ == "__main__":
    main()
