"""The published weight files as values, read from `models/catalogue.toml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.places import models_folder

DEFAULT_PATH = models_folder() / "catalogue.toml"
_TOML_READERS = ("tomllib", "tomli", "tomlkit")  # Python 3.11; Python 3.10; what gradio brings along


class Role(str, Enum):
    """What a weight file is for."""

    LAYER_MODEL = "layer model"
    ENCODER = "encoder"
    DECODER = "decoder"

    __str__ = str.__str__


@dataclass(frozen=True)
class WeightFile:
    """A published file.

    name: what the method table calls it. repository, revision: where it is published. size: bytes, sha256: hexadecimal
    digits, None where nobody has recorded them. sha256_revision: the commit that the digest was taken of, "" where it
    holds for whatever `revision` is.
    """

    name: str
    family: Family
    role: Role
    repository: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None
    sha256_revision: str = ""

    def digest_of(self, commit: str | None) -> str | None:
        """The recorded sha256 where it holds for this commit."""
        return self.sha256 if self.sha256_revision in {"", commit} else None

    @property
    def file_name(self) -> str:
        """Its name on disk and in the repository."""
        return f"{self.name}.safetensors"


class Catalogue(Mapping[str, WeightFile]):
    """Name -> published file, in the order of the catalogue."""

    def __init__(self, files: Sequence[WeightFile]) -> None:
        self._files = {file.name: file for file in files}

    def __getitem__(self, name: str) -> WeightFile:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> Catalogue:
        """Read a catalogue.

        Raises:
            WeightsError: the file is missing or not a catalogue.
        """
        try:
            content = _toml_reader().loads(path.read_text(encoding="utf-8"))
            source = dict(content["source"])
            return cls([_weight_file({**source, **entry}) for entry in content["file"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"The list of weight files at {path} cannot be read: install the extension anew."
            ) from error

    def find(self, name: str) -> WeightFile:
        """The file of this name, with or without ".safetensors".

        Raises:
            WeightsError: there is none; the message lists what there is.
        """
        file = self._files.get(name.removesuffix(".safetensors"))
        if file is None:
            raise WeightsError(f'There is no weight file "{name}"; use one of: {", ".join(self._files)}.')
        return file


def find_file(file: WeightFile, folders: Sequence[Path]) -> Path | None:
    """Where `file` lies in the first of `folders` that has it, None where none has."""
    candidates = (folder / file.file_name for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


def _toml_reader() -> Any:
    available = next((name for name in _TOML_READERS if find_spec(name)), None)
    if available is not None:
        return import_module(available)
    raise WeightsError('Python 3.10 cannot read the list of weight files by itself: run "pip install tomli".')


def _weight_file(entry: Mapping[str, Any]) -> WeightFile:
    digest, size = entry.get("sha256"), entry.get("size")
    return WeightFile(
        name=str(entry["name"]),
        family=Family(str(entry["family"])),
        role=Role(str(entry["role"])),
        repository=str(entry["repository"]),
        revision=str(entry.get("revision", "main")),
        size=None if size is None else int(size),
        sha256=None if digest is None else str(digest).lower(),
        sha256_revision=str(entry.get("sha256_revision", "")),
    )
