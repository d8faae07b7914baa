"""What decoding takes of memory, counted by torch: a process's own peak varies by half with its heap and its CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lib_layerdiffusion.networks import TransparentDecoder
from lib_layerdiffusion.networks.precision import cpu_multiplies_bfloat16
from lib_layerdiffusion.transparency import LatentTransparency

if TYPE_CHECKING:
    from collections.abc import Callable

PUBLISHED = 1424
"""MiB of tensors at once that the published code takes for a view of 1024 pixels in float32, counted likewise."""


def peak_of_tensors(work: Callable[[], object], trace: Path) -> float:
    """The most MiB that tensors of the CPU took at once during `work`, above what they took before."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        work()
    profile.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    taken = peak = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        taken += event["args"]["Bytes"]
        peak = max(peak, taken)
    return peak / 2**20


def test_peaks_are_counted(tmp_path):
    def work() -> None:
        first = torch.zeros(3 << 18)
        second = torch.zeros(1 << 18)
        del first
        torch.zeros(2 << 18)
        del second

    assert peak_of_tensors(work, tmp_path / "trace.json") == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.7 * PUBLISHED), ("bfloat16", 0.5 * PUBLISHED)])
def test_a_view_of_1024_pixels_takes_less_than_the_published_code_does(dtype, most, tmp_path):
    if dtype == "bfloat16" and not cpu_multiplies_bfloat16():
        pytest.skip("decoding is in float32 on this CPU")
    decoder = TransparentDecoder().eval().requires_grad_(requires_grad=False).with_precision(getattr(torch, dtype))
    pair = LatentTransparency(decoder=decoder)
    pair.decode(torch.rand(1, 3, 64, 64), torch.rand(1, 4, 8, 8), 1)  # puts weights in order, which is not to count
    pixels, latent = torch.rand(1, 3, 1024, 1024), torch.rand(1, 4, 128, 128)
    assert 500 < peak_of_tensors(lambda: pair.decode(pixels, latent, 1), tmp_path / "trace.json") < most
