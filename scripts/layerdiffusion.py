"""LayerDiffusion for Forge and its kin. Whatever is wrong here, the host starts, and one line says why we are off."""

from __future__ import annotations

from pathlib import Path

import lib_layerdiffusion
from lib_layerdiffusion.hosts.forge import needs

OTHER = (
    "LayerDiffusion is off: another LayerDiffusion extension is installed beside this one and both bring a "
    "lib_layerdiffusion; remove or disable one of them, then restart."
)


def _problem() -> str:
    """What keeps it from working here, "" for nothing."""
    if Path(lib_layerdiffusion.__file__).resolve().parents[1] != Path(__file__).resolve().parents[1]:
        return OTHER
    return needs.unusable()


problem = _problem()
if problem:
    print(problem)
else:
    try:
        from lib_layerdiffusion.hosts.forge import script

        LayerDiffusionScript = script.LayerDiffusionScript  # the host looks for classes in this module
        script.register(__file__)
    except Exception as error:  # noqa: BLE001  # a host that starts without us is better than one that does not
        print(f"LayerDiffusion is off: it does not fit this host ({type(error).__name__}: {error}).")
