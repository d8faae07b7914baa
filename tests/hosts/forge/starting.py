"""How a real host is started in a test process: which it is, its flags for a CPU, and what it does not have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lib_layerdiffusion.hosts.forge.installation import Installation

_ARGUMENT_FILES = (
    "modules/cmd_args.py",
    "backend/args.py",
    "ldm_patched/modules/args_parser.py",
    "modules_forge/shared.py",
    "modules_forge/cmd_args.py",
)
_WANTED = (
    ("--always-cpu", "--cpu"),
    ("--no-half", "--all-in-fp32", "--force-fp32"),
    ("--skip-torch-cuda-test",),
    ("--skip-prepare-environment",),
    ("--skip-install",),
    ("--skip-python-version-check",),
    ("--skip-version-check",),
    ("--nowebui",),
    ("--no-hashing",),
    ("--no-download-sd-model",),
)
"""Each the names that hosts have for one flag; the first that a host knows is taken."""
_NEO_ATTENTION = ("--attention-pytorch", "--use-pytorch-cross-attention")
"""Neo's own choice fails on a CPU."""


def host_name(root: Path) -> str:
    """Which of the hosts the checkout is."""
    return Installation(root).name


def _first_known(root: Path, *names: str) -> list[str]:
    """The first of a flag's names that the host has."""
    known = "".join((root / name).read_text(encoding="utf-8") for name in _ARGUMENT_FILES if (root / name).is_file())
    return [name for name in names if f'"{name}"' in known][:1]


def cpu_flags(root: Path) -> list[str]:
    """For a run on the CPU in float32, without a page."""
    wanted = [*_WANTED, _NEO_ATTENTION] if host_name(root) == "Forge Neo" else _WANTED
    return [flag for names in wanted for flag in _first_known(root, *names)]


def flags(root: Path, folder: Path, checkpoints: Path) -> list[str]:
    """As `cpu_flags`; models are those of the checkout, everything that is written goes into `folder`.

    checkpoints: a second folder of checkpoints.
    """
    first, given = partial(_first_known, root), cpu_flags(root)
    models = first("--models-dir")
    if not models:
        (folder / "models").symlink_to(root / "models")
    given += [*models, *([str(root / "models")] if models else [])]
    return [*given, "--api", "--data-dir", str(folder), *first("--ckpt-dir", "--ckpt-dirs"), str(checkpoints)]


def skip_what_is_not_there(body: dict[str, Any], runner: Any) -> None:
    """Skip a test that asks for a script or an upscaler which this host does not have. body: of a request."""
    import pytest
    from modules import shared

    titles = {script.title().lower() for script in runner.scripts}
    asked = [*body.get("alwayson_scripts", {}), *filter(None, [body.get("script_name")])]
    missing = [title for title in asked if title.lower() not in titles]
    upscaler = body.get("hr_upscaler")
    upscalers = {one.name for one in shared.sd_upscalers} | set(shared.latent_upscale_modes)
    if upscaler is not None and upscaler not in upscalers:
        missing.append(upscaler)
    if missing:
        pytest.skip(f"this host has no {', '.join(missing)}")


def skip_without_upscalers(*names: str | None) -> None:
    """Skip a test that asks for an upscaler which this host does not have."""
    import pytest
    from modules import shared

    missing = {name for name in names if name is not None} - {one.name for one in shared.sd_upscalers}
    if missing:
        pytest.skip(f"this host has no {', '.join(missing)}")


def known_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those that the host has."""
    from modules import shared

    return {name: value for name, value in options.items() if name in shared.opts.data_labels}


def known_fields(body: dict[str, Any], model: Any) -> dict[str, Any]:
    """What the host's API knows of a request; `model` is the class of its requests."""
    fields = getattr(model, "model_fields", None) or model.__fields__
    return {name: value for name, value in body.items() if name in fields}


def take_sizes_as_asked() -> None:
    """Tell a Neo that rounds sizes to multiples of 64, unless its model has a say, to make what it is asked for."""
    from backend.diffusion_engine.base import ForgeDiffusionEngine

    if not hasattr(ForgeDiffusionEngine, "fix_dimensions"):
        ForgeDiffusionEngine.fix_dimensions = staticmethod(lambda width, height: (width, height))
