"""What differs below the hooks of Forge's kin, behind one Protocol; found once at start, by what is there.

`protocol` says what LayerDiffusion needs of a host, `forge` gives it in Forge and in Neo (`backend.*`), `ldm` in
reForge and classic (`ldm_patched.*`); `offsets` knows the ways in which they take changes of weights.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import cast

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend

FAMILIES = {"backend": "forge", "ldm_patched": "ldm"}
"""Top-level package of a host -> the module here that works with it."""


def find() -> Backend:
    """The implementation for the host that this runs in.

    Raises:
        HostError: the host is of another kin.
    """
    for package, name in FAMILIES.items():
        if find_spec(package) is not None:
            return cast("Backend", import_module(f"{__name__}.{name}").HostBackend())
    raise HostError("LayerDiffusion needs Forge, Forge Neo, reForge or Forge classic: this host is none of them.")
