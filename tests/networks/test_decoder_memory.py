"""What decoding takes of a CPU's memory, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lib_layerdiffusion.networks.precision import cpu_multiplies_bfloat16

ROOT = Path(__file__).parents[2]
PUBLISHED = 1686
"""MiB that the published code takes, in float32, measured by `python -m tests.benchmarks memory`."""
# The kernel's own count of this program: ru_maxrss begins with what the process that started it held.
DECODED = """
import re, torch
from pathlib import Path
from lib_layerdiffusion.networks import TransparentDecoder
from lib_layerdiffusion.transparency import LatentTransparency
decoder = TransparentDecoder().eval().requires_grad_(False).with_precision(torch.{dtype})
pair = LatentTransparency(decoder=decoder)
decoded = lambda side: pair.decode(torch.rand(1, 3, side, side), torch.rand(1, 4, side // 8, side // 8), 1)
kib = lambda name: int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
decoded(64)
before = kib("VmRSS")
decoded(1024)
print((kib("VmHWM") - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_view_of_1024_pixels_takes_less_than_the_published_code_does(dtype):
    if dtype == "bfloat16" and not cpu_multiplies_bfloat16():
        pytest.skip("decoding is in float32 on this CPU")
    script = DECODED.format(dtype=dtype)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert 500 < int(done.stdout) < PUBLISHED
