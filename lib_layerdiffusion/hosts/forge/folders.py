"""Where layer files lie: the host's own folder of models, and those of other programs that it is pointed at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "layer_model"
"""Where the reference extension and ComfyUI's nodes keep the files, in a program's folder of models."""
_HOMES = ("forge_ref_a1111_home", "forge_ref_comfy_home")
_COMFY_YAML = "forge_ref_comfy_yaml"
_BASE_PATH = re.compile(r"""^\s+base_path:\s*(?P<quote>["']?)(?P<path>.+?)(?P=quote)\s*(?:\s#.*)?$""")
_LAYER_MODEL = re.compile(rf"""^\s+{FOLDER}:\s*(?P<quote>["']?)(?P<path>[^|>].*?)(?P=quote)\s*(?:\s#.*)?$""")


def layer_folders(models: Path, flags: Mapping[str, Any], chosen: str | None = None) -> list[Path]:
    """Folders of layer files in the order in which they are looked into; the first takes what is fetched.

    models: the host's folder of models. flags: its command line by name. chosen: what our own flag or the settings page
    says, which goes before all others.
    """
    own = [Path(chosen).expanduser()] if chosen else []
    return list(dict.fromkeys([*own, models / FOLDER, *_elsewhere(flags)]))


def _elsewhere(flags: Mapping[str, Any]) -> Iterator[Path]:
    for name in _HOMES:
        home = flags.get(name)
        if home:
            yield Path(str(home)).expanduser() / "models" / FOLDER
    listed = flags.get(_COMFY_YAML)
    if listed:
        yield from comfy_folders(Path(str(listed)).expanduser())


def comfy_folders(listing: Path) -> Iterator[Path]:
    """Folders of layer files that ComfyUI's list of model folders names; nothing where it cannot be read.

    Each entry has a `base_path` and folders below it. Only these two lines are looked at, so no library is needed.
    """
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    base = listing.parent
    for line in lines:
        if line[:1].strip():  # the next entry
            base = listing.parent
        if (found := _BASE_PATH.match(line)) is not None:
            base = listing.parent / Path(found["path"]).expanduser()
            yield from (base / FOLDER, base / "models" / FOLDER)
        elif (found := _LAYER_MODEL.match(line)) is not None:
            yield base / Path(found["path"]).expanduser()
