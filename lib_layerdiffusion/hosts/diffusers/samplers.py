"""Samplers by the names that A1111 and Forge use, and by diffusers' class names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from lib_layerdiffusion.errors import SettingsError

_DPM = "DPMSolverMultistepScheduler"
_K_SPACING = {"timestep_spacing": "linspace"}  # k-diffusion spaces its steps evenly from the last timestep to 0

_SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "Euler": ("EulerDiscreteScheduler", _K_SPACING),
        "Euler a": ("EulerAncestralDiscreteScheduler", _K_SPACING),
        "Heun": ("HeunDiscreteScheduler", _K_SPACING),
        "LMS": ("LMSDiscreteScheduler", _K_SPACING),
        "DPM2": ("KDPM2DiscreteScheduler", _K_SPACING),
        "DPM2 a": ("KDPM2AncestralDiscreteScheduler", _K_SPACING),
        "DPM++ 2M": (_DPM, _K_SPACING | {"algorithm_type": "dpmsolver++", "solver_order": 2}),
        "DPM++ 2M SDE": (_DPM, _K_SPACING | {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
        "DPM++ 3M SDE": (_DPM, _K_SPACING | {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
        "DPM++ SDE": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
        "DDIM": ("DDIMScheduler", {"timestep_spacing": "leading", "clip_sample": False}),
        "DDPM": ("DDPMScheduler", {"clip_sample": False}),
        "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
        "UniPC": ("UniPCMultistepScheduler", {}),
        "LCM": ("LCMScheduler", {}),
    }
)
_SCHEDULES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Automatic": {},
        "Uniform": {},
        "Karras": {"use_karras_sigmas": True},
        "Exponential": {"use_exponential_sigmas": True},
        "Beta": {"use_beta_sigmas": True},
        "SGM Uniform": {"timestep_spacing": "trailing"},
    }
)
SAMPLER_NAMES = tuple(_SAMPLERS)
SCHEDULE_NAMES = tuple(name for name, switches in _SCHEDULES.items() if switches)
_CHOICES = (
    *("algorithm_type", "solver_order", "solver_type", "lower_order_final", "final_sigmas_type", "lambda_min_clipped"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("timestep_spacing", "clip_sample", "skip_prk_steps"),
)


def _lookup(table: Mapping[str, Any], name: str) -> str | None:
    folded = name.strip().casefold()
    return next((known for known in table if known.casefold() == folded), None)


def _split(name: str) -> tuple[str, Mapping[str, Any]]:
    """A1111 name, with or without a schedule behind it ("DPM++ 2M Karras"), -> its row and the schedule's switches."""
    row = _lookup(_SAMPLERS, name)
    if row:
        return row, {}
    for schedule, switches in _SCHEDULES.items():
        if name.casefold().endswith(f" {schedule.casefold()}"):
            row = _lookup(_SAMPLERS, name[: -len(schedule) - 1])
            if row:
                return row, switches
    raise SettingsError(
        f'There is no sampler "{name}"; use one of: {", ".join(_SAMPLERS)} (with or without '
        f"{', '.join(key for key in _SCHEDULES if _SCHEDULES[key])} behind it), or a diffusers scheduler class."
    )


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A scheduler by its A1111 name ("Euler a", "DPM++ 2M Karras") or diffusers class ("DDIMScheduler").

    config: the present scheduler's; noise schedule and prediction type are taken from it.

    Raises:
        SettingsError: nothing is called so, or this scheduler has no such schedule.
    """
    if name.endswith("Scheduler") and name.isidentifier() and hasattr(diffusers, name):
        kind = getattr(diffusers, name)
        if hasattr(kind, "from_config") and hasattr(kind, "set_timesteps"):
            return kind.from_config(config)
    row, switches = _split(name)
    class_name, fixed = _SAMPLERS[row]
    kind = getattr(diffusers, class_name)
    accepted = inspect.signature(kind.__init__).parameters
    unknown = [switch for switch in switches if switch not in accepted]
    if unknown:
        raise SettingsError(f'Sampler "{row}" has no such schedule: leave out what stands behind its name.')
    # What an earlier sampler of the pipeline had switched on must not carry over into this one.
    plain = {key: value for key, value in config.items() if key not in _CHOICES and not key.startswith("_")}
    options = {key: value for key, value in fixed.items() if key in accepted} | dict(switches)
    try:
        _try_out(kind.from_config(plain, **options))
    except ImportError as error:
        raise SettingsError(f'Sampler "{name}" needs another package: {str(error).splitlines()[0]}') from error
    except (TypeError, NameError, ValueError, NotImplementedError) as error:
        raise SettingsError(
            f'Sampler "{name}" does not work with diffusers {diffusers.__version__}: choose another one.'
        ) from error
    return kind.from_config(plain, **options)


def _try_out(scheduler: Any) -> None:
    """Run a few steps: some combinations are accepted by some diffusers versions and fail in the middle of a run."""
    scheduler.set_timesteps(20)
    latents = torch.zeros(1, 4, 2, 2)
    for timestep in scheduler.timesteps[:4]:
        latents = scheduler.step(latents, timestep, latents).prev_sample


def describe_sampler(name: str, scheduler: Any) -> dict[str, str]:
    """Infotext keys of a sampler: "Sampler", and "Schedule type" where one was chosen by name."""
    if not name or name.endswith("Scheduler"):
        return {"Sampler": _names_of_classes().get(type(scheduler).__name__, type(scheduler).__name__)}
    row, switches = _split(name)
    schedule = next(key for key, value in _SCHEDULES.items() if value == switches)
    return {"Sampler": row} if schedule == "Automatic" else {"Sampler": row, "Schedule type": schedule}


def _names_of_classes() -> dict[str, str]:
    """A1111's name of every class that stands behind one name only."""
    classes = [class_name for class_name, _ in _SAMPLERS.values()]
    return {kind: name for name, (kind, _) in _SAMPLERS.items() if classes.count(kind) == 1}
