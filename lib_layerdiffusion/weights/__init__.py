"""Weight files: which there are, where they lie, how they come here, and what is in them."""

from lib_layerdiffusion.weights.catalogue import Catalogue, Role, WeightFile, find_file
from lib_layerdiffusion.weights.download import Progress, fetch, find_in_cache
from lib_layerdiffusion.weights.reading import check_file, read_weights
from lib_layerdiffusion.weights.store import FileStatus, WeightStore

__all__ = [
    "Catalogue",
    "FileStatus",
    "Progress",
    "Role",
    "WeightFile",
    "WeightStore",
    "check_file",
    "fetch",
    "find_file",
    "find_in_cache",
    "read_weights",
]
