"""Everything that a run reads from weight files, found, fetched, checked and kept for the next run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from torch import Tensor

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family, LayerMethod
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.unet.injection import LayerWeights, read_layer_weights
from lib_layerdiffusion.weights.catalogue import Catalogue, WeightFile, find_file
from lib_layerdiffusion.weights.download import Progress, address, fetch, find_in_cache
from lib_layerdiffusion.weights.reading import FETCH_AGAIN, GET_AGAIN, check_file, differs, read_weights

Content = TypeVar("Content")

_EXACT = " exact"
_KEPT = 6
"""Contents kept: both families' encoders and decoders, and the layer models of two methods."""


@dataclass(frozen=True)
class FileStatus:
    """Where a published file is, and what is wrong with it.

    problem: one sentence, "" where nothing is. warning: one for a file that may be used and is not the published one.
    """

    file: WeightFile
    address: str
    path: Path | None = None
    size: int | None = None
    problem: str = ""
    warning: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the file is there and whole."""
        return self.path is not None and not self.problem

    def to_mapping(self) -> dict[str, object]:
        """The same as plain JSON."""
        return {
            "name": self.file.name,
            "family": str(self.file.family),
            "role": str(self.file.role),
            "installed": self.is_installed,
            "path": None if self.path is None else str(self.path),
            "size": self.size,
            "address": self.address,
            "problem": self.problem,
            "warning": self.warning,
        }


class WeightStore:
    """The weight files of one program.

    folders: where files are looked for, in this order; the first takes what is fetched. progress, endpoint: as in
    `download.fetch`. may_fetch: False makes a missing file an error. same: name of a file -> name of the one that
    serves in its place, for families whose two kinds of methods share a file. A content is read once and kept until its
    file changes, so that a second run reads nothing. Safe to use from several threads.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        catalogue: Catalogue | None = None,
        *,
        progress: Progress | None = None,
        endpoint: str | None = None,
        may_fetch: bool = True,
        same: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if not folders:
            raise WeightsError("No folder for weight files is given: name at least one.")
        self.folders = tuple(Path(folder) for folder in folders)
        self.catalogue = Catalogue.load() if catalogue is None else catalogue
        self.progress = progress
        self.endpoint = endpoint
        self.may_fetch = may_fetch
        self.same = dict(same)
        self._contents: OrderedDict[str, tuple[tuple[str, int, int], object]] = OrderedDict()
        self._lock = threading.RLock()

    def layer(self, method: LayerMethod) -> LayerWeights:
        """The method's changes to the UNet; those of other methods are let go, as they take up to a gigabyte.

        Raises:
            WeightsError: the file is missing and cannot be fetched, damaged, or of another method.
        """
        with self._lock:
            for other in METHODS.values():
                if other.weights != method.weights:
                    self._contents.pop(other.weights, None)
        return self._content(method.weights, lambda state: read_layer_weights(method, state))

    def decoder(self, family: Family, *, exact: bool = False) -> TransparentDecoder:
        """The family's decoder to RGBA; the same object until its file changes.

        exact: another one, of its own, since the first one's weights may have been rounded for speed.

        Raises:
            WeightsError: the file is missing and cannot be fetched, damaged, or another file.
        """
        kept_as = _EXACT if exact else ""
        return self._content(VAE_FILES[family].decoder, TransparentDecoder.from_state_dict, kept_as)

    def encoder(self, family: Family) -> TransparentEncoder:
        """The family's encoder of RGBA; the same object until its file changes.

        Raises:
            WeightsError: the file is missing and cannot be fetched, damaged, or another file.
        """
        return self._content(VAE_FILES[family].encoder, TransparentEncoder.from_state_dict)

    def find(self, name: str) -> Path | None:
        """Where the file lies: in one of the folders, or in the cache of huggingface_hub."""
        file = self.catalogue.find(self.same.get(name, name))
        return find_file(file, self.folders) or find_in_cache(file)

    def path(self, name: str, progress: Progress | None = None) -> Path:
        """Where the file lies; it is fetched if it is nowhere.

        Raises:
            WeightsError: it is nowhere and cannot be fetched.
        """
        found = self.find(name)
        if found is not None:
            return found
        file = self.catalogue.find(self.same.get(name, name))
        if not self.may_fetch:
            where = address(file, self.endpoint)
            raise WeightsError(
                f"{file.file_name} is missing: download it from {where} and put it into {self.folders[0]}."
            )
        return fetch(file, self.folders[0], progress=progress or self.progress, endpoint=self.endpoint)

    def status(self) -> list[FileStatus]:
        """All published files, in the order of the catalogue; files that are here are checked for being whole."""
        return [self._status(file, replace_digest=True) for file in self.catalogue.values()]

    def verify(self, name: str) -> FileStatus:
        """The state of one file; its whole content is compared where the catalogue knows its digest.

        A digest that was taken of one revision makes a warning only, for the file may be from another.

        Raises:
            WeightsError: the catalogue has no such file.
        """
        return self._status(self.catalogue.find(name), replace_digest=False)

    def forget(self) -> None:
        """Let go of everything that is kept in memory."""
        with self._lock:
            self._contents.clear()

    def _status(self, file: WeightFile, *, replace_digest: bool) -> FileStatus:
        path, where = self.find(file.name), address(file, self.endpoint)
        if path is None:
            return FileStatus(file, where)
        problem = warning = ""
        try:
            check_file(path, None if replace_digest else file, remedy=self._remedy)
        except WeightsError as error:
            problem = str(error)
        if not problem and not replace_digest and file.sha256 is not None and differs(path, file.sha256):
            revision = file.sha256_revision[:7]
            warning = f"{path} is not the file that was published at revision {revision}: it is used as it is."
        return FileStatus(file, where, path, path.stat().st_size, problem, warning)

    @property
    def _remedy(self) -> str:
        return FETCH_AGAIN if self.may_fetch else GET_AGAIN

    def _content(self, name: str, read: Callable[[Mapping[str, Tensor]], Content], kept_as: str = "") -> Content:
        """What `read` makes of a file; kept_as: tells several of one file apart."""
        path = self.path(name)
        found = path.stat()
        stamp = (str(path), found.st_mtime_ns, found.st_size)
        with self._lock:
            kept = self._contents.get(name + kept_as)
            if kept is None or kept[0] != stamp:
                kept = (stamp, _read(path, read, self._remedy))
                self._contents[name + kept_as] = kept
            self._contents.move_to_end(name + kept_as)
            while len(self._contents) > _KEPT:
                self._contents.popitem(last=False)
        return cast("Content", kept[1])


def _read(path: Path, read: Callable[[Mapping[str, Tensor]], Content], remedy: str) -> Content:
    state = read_weights(path, remedy)
    try:
        return read(state)
    except WeightsError as error:
        raise WeightsError(f"{path.name} in {path.parent}: {error}") from error
