"""`layerdiffusion weights list|fetch|verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_layerdiffusion.commands.common import add_command, add_json_argument, file_path, report, stage_bars
from lib_layerdiffusion.errors import SettingsError

if TYPE_CHECKING:
    from lib_layerdiffusion.weights import FileStatus, WeightStore


def add_parsers(subparsers: Any) -> None:
    """Register the command and its three actions."""
    parser = add_command(
        subparsers,
        "weights",
        "the published layer files: which are here, get them, check them",
        "list",
        "fetch SDXL",
        "verify",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = add_command(actions, "list", "every published file and whether it is here", "", within="weights")
    listed.set_defaults(run=_run_list)
    fetch = add_command(
        actions, "fetch", "download files that are missing", "SDXL", "transparent --weights models", within="weights"
    )
    fetch.add_argument("names", nargs="+", metavar="NAME", help='file names, methods, families ("SDXL"), or "all"')
    fetch.set_defaults(run=_run_fetch)
    verify = add_command(actions, "verify", "check that files are whole", "", "SDXL", within="weights")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here")
    verify.set_defaults(run=_run_verify)
    for action in (listed, fetch, verify):
        action.add_argument("--weights", type=file_path, metavar="DIR", help="folder of the layer files")
        add_json_argument(action)


def _store(arguments: argparse.Namespace) -> WeightStore:
    from lib_layerdiffusion.places import default_weights_folder
    from lib_layerdiffusion.weights import WeightStore

    return WeightStore([arguments.weights or default_weights_folder()])


def chosen_files(names: list[str]) -> list[str]:
    """Catalogue names that file names, method names or labels, families or "all" stand for, each once.

    Raises:
        SettingsError: a name stands for nothing.
    """
    from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family
    from lib_layerdiffusion.weights import Catalogue

    catalogue = Catalogue.load()
    chosen: list[str] = []
    for name in names:
        family = next((item for item in Family if item.value.lower() == name.lower()), None)
        rows = [row for row in METHODS.values() if name in {row.name, row.label, *row.old_labels}]
        plain = name.removesuffix(".safetensors")
        if name == "all":
            chosen += list(catalogue)
        elif family is not None:
            chosen += [file.name for file in catalogue.values() if file.family is family]
        elif rows:
            chosen += [file for row in rows for file in (*row.file_names, VAE_FILES[row.family].encoder)]
        elif plain in catalogue:
            chosen.append(plain)
        else:
            raise SettingsError(
                f'"{name}" is no layer file, method or family; "layerdiffusion weights list" shows them.'
            )
    return list(dict.fromkeys(chosen))


def _run_list(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    found = store.status()
    lines = [f"Folder: {store.folders[0]}"]
    for status in found:
        state = "here" if status.is_installed else status.problem or "missing"
        lines.append(f"{status.file.name:45} {status.file.family:6} {state}")
    report(arguments, {"folder": store.folders[0], "files": [status.to_mapping() for status in found]}, lines)
    return 0


def _run_fetch(arguments: argparse.Namespace) -> int:
    names = chosen_files(arguments.names)
    store = _store(arguments)
    paths: dict[str, Path] = {}
    with stage_bars(quiet=arguments.json) as progress:
        for name in names:

            def advance(done: int, total: int | None, name: str = name) -> None:
                progress(name, done, total or max(done, 1))

            paths[name] = store.path(name, advance)
    report(arguments, {"files": paths}, [f"{name}: {path}" for name, path in paths.items()])
    return 0


def _state(status: FileStatus) -> str:
    return status.problem or status.warning or ("whole" if status.path else "missing")


def _run_verify(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    names = chosen_files(arguments.names) if arguments.names else [n for n in store.catalogue if store.find(n)]
    found = [store.verify(name) for name in names]
    bad = [status for status in found if not status.is_installed]
    lines = [f"{status.file.name}: {_state(status)}" for status in found]
    lines = lines or ["No layer file is here."]
    report(arguments, {"files": [status.to_mapping() for status in found], "bad": len(bad)}, lines)
    return 1 if bad else 0
