"""What a case found, and what several cases do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib_layerdiffusion.errors import LayerDiffusionError

ROOT = Path(__file__).parents[2]


@dataclass
class Found:
    tried: int = 0
    lost: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def expect(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Anything but a sentence or a result is wrong."""
        self.tried += 1
        try:
            return call(*args, **kwargs)
        except LayerDiffusionError as error:
            self.wrong += "\n" in str(error) or not str(error)
        except Exception as error:  # noqa: BLE001 - that is what is counted
            self.wrong += 1
            self.notes.append(f"{type(error).__name__}: {str(error)[:200]}")
        return None


def killed(script: str, folder: Path, after: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()


def resident(process: int | str = "self") -> float:
    """MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def slope(memory: Sequence[float]) -> float:
    """MiB a sample, over the later two thirds of them."""
    later = memory[len(memory) // 3 :]
    return float(np.polyfit(np.arange(len(later)), later, 1)[0]) if len(later) > 2 else float("nan")
