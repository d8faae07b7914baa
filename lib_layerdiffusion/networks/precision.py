"""Which precision our own networks take on a device: the transparency decoder, and attention between frames."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import torch

_FLAGS = frozenset(["avx512_bf16", "amx_bf16", "bf16"])
"""What Linux calls instructions that multiply bfloat16, on x86 and on ARM."""


def faster_precision(device: torch.device, otherwise: torch.dtype, *, exact: bool = False) -> torch.dtype:
    """bfloat16 on a CPU that multiplies it itself (half the time of float32), else `otherwise`.

    exact: `otherwise` there too, for results that have to be those of another program.
    """
    faster = device.type == "cpu" and not exact and cpu_multiplies_bfloat16()
    return torch.bfloat16 if faster else otherwise


@lru_cache(maxsize=1)
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; where it has not, torch converts every number, which is slower."""
    known = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    if any(check is not None and check() for check in known):
        return True
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(_FLAGS & set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()))
    except OSError:
        return False
