"""`layerdiffusion doctor`: what is installed, where things would run, and what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from lib_layerdiffusion.commands.common import MODULES, add_command, add_json_argument, file_path, report

PACKAGES = ("torch", "numpy", "pillow", "opencv-python", "safetensors", "huggingface-hub")
HOST_PACKAGES = ("diffusers", "transformers", "accelerate", "tqdm")
OPTIONAL = ("peft", "fastapi", "uvicorn", "psd-tools", "ray")


def add_parsers(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(subparsers, "doctor", "what is installed, and what is missing", "", "--json")
    parser.add_argument("--weights", type=file_path, metavar="DIR", help="folder of the layer files")
    parser.add_argument(
        "--host", type=file_path, metavar="DIR", help="a WebUI's folder, to read instead; it is not started"
    )
    add_json_argument(parser)
    parser.set_defaults(run=_run)


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    """A package's version, "installed" where its module is there under another package's name (cv2, headless)."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "installed" if importlib.util.find_spec(MODULES.get(name, name)) else None


def _devices() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    mps = getattr(torch.backends, "mps", None)
    return [*found, *(["mps"] if mps is not None and mps.is_available() else []), "cpu"]


def _run(arguments: argparse.Namespace) -> int:
    return _run_here(arguments) if arguments.host is None else _run_host(arguments)


def _run_host(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.hosts.forge.installation import Installation
    from lib_layerdiffusion.methods import METHODS
    from lib_layerdiffusion.weights import WeightStore

    host = Installation(arguments.host.expanduser())
    store = WeightStore([arguments.weights] if arguments.weights else host.folders, may_fetch=False)
    files = {status.file.name: status for status in store.status()}
    missing = {row.label: [name for name in row.file_names if not files[name].is_installed] for row in METHODS.values()}
    problems = [host.problem] if host.problem else []
    if len(host.extensions) > 1:
        problems.append(
            f"{len(host.extensions)} extensions bring a lib_layerdiffusion, which works with none of them: keep one of "
            + ", ".join(path.name for path in host.extensions)
        )
    problems += [f"{what} is off: no {', '.join(names)}" for what, names in host.lost.items() if not host.problem]
    problems += [status.problem for status in files.values() if status.problem]
    values: dict[str, Any] = {
        "host": host.name,
        "release": host.release,
        "capabilities": dict(host.capabilities),
        "extensions": host.extensions,
        "folders": host.folders,
        "layer_files": {name: status.path for name, status in files.items() if status.path},
        "methods": dict.fromkeys(missing, not host.problem),
        "missing_files": {label: names for label, names in missing.items() if names},
        "problems": problems,
    }
    report(arguments, values, _host_lines(values))
    return 1 if host.problem else 0


def _host_lines(values: dict[str, Any]) -> list[str]:
    working = [label for label, works in values["methods"].items() if works]
    ready = [label for label in working if label not in values["missing_files"]]
    return [
        f"Host: {values['host']} {values['release']}".rstrip(),
        *(f"  {name}: {value}" for name, value in values["capabilities"].items()),
        f"Extension: {', '.join(map(str, values['extensions'])) or 'not installed there'}",
        f"Methods that work: {len(working)} of {len(values['methods'])}, {len(ready)} with all of their files here",
        *(f"Layer files in {folder}" + ("" if folder.is_dir() else " (not there)") for folder in values["folders"]),
        *(f"  {name}: {path}" for name, path in values["layer_files"].items()),
        *(f"! {problem}" for problem in values["problems"]),
    ]


def _run_here(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.places import bundled_family, clip_merges, default_weights_folder
    from lib_layerdiffusion.weights import WeightStore

    needed, host, optional = _versions(PACKAGES), _versions(HOST_PACKAGES), _versions(OPTIONAL)
    store = WeightStore([arguments.weights or default_weights_folder()])
    files = store.status()
    bundled = bundled_family()
    installed = [status.file.name for status in files if status.is_installed]
    problems = [f"{name} is missing: pip install {name}" for name, version in needed.items() if version is None]
    gaps = [name for name, version in host.items() if version is None]
    if gaps:
        problems.append(f"{', '.join(gaps)} missing: pip install {' '.join(gaps)} (not needed inside Forge)")
    problems += [status.problem for status in files if status.problem]
    if bundled is None and not installed:
        problems.append('no layer files: "layerdiffusion weights fetch SDXL" downloads them')
    if clip_merges() is None:
        problems.append("no CLIP vocabulary for single-file checkpoints: pip install openai-clip")
    values: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {**needed, **host, **optional},
        "host": None if gaps else "diffusers",
        "devices": _devices(),
        "bundled_family": bundled,
        "weights_folder": store.folders[0],
        "weights": {status.file.name: status.is_installed for status in files},
        "free_gib": round(shutil.disk_usage(Path.home()).free / 2**30, 1),
        "problems": problems,
    }
    report(arguments, values, _lines(values, len(installed), len(files)))
    return 1 if any(version is None for version in needed.values()) else 0


def _lines(values: dict[str, Any], installed: int, total: int) -> list[str]:
    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in values["packages"].items())
    return [
        f"Python {values['python']}: {packages}",
        f"Host without Forge: {values['host'] or 'none'}",
        f"Devices: {', '.join(values['devices'])}",
        f"Bundled family: {values['bundled_family'] or 'none'}",
        f"Layer files: {installed} of {total} in {values['weights_folder']}, {values['free_gib']} GiB free",
        *(f"! {problem}" for problem in values["problems"]),
    ]
