"""The layers of a real host with really packed weights: `pytest ... --forge-root DIR`; see `quantised_layers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lib_layerdiffusion.hosts.forge.installation import ADAPTERS, Installation
from tests.hosts.forge.quantised_layers import BITS

ROOT = Path(__file__).resolve().parents[3]
CALLED = {
    "fp8": "fp8 e4m3fn",
    "Q8_0": "GGUF Q8_0",
    "Q4_0": "GGUF Q4_0",
    "Q4_K": "GGUF Q4_K",
    "nf4": "bitsandbytes nf4",
    "float8_e4m3fn": "FP8E4M3",
    "int8_tensorwise": "INT8",
    "nvfp4": "NVFP4",
}


@pytest.fixture(scope="module")
def measured(request):
    """Kind -> what came of it in a process of its own, which has the host's backend and nothing else of it."""
    root = request.config.getoption("--forge-root")
    if root is None or not (root / "backend").is_dir():
        pytest.skip("needs the folder of a host with `backend`: --forge-root")
    has_mixed = Installation(root.resolve()).capabilities["weight offsets"] == ADAPTERS
    kinds = [kind for kind in CALLED if has_mixed or BITS.get(kind) != "mixed"]
    command = [sys.executable, "-m", "tests.hosts.forge.quantised_layers", str(root.resolve()), *kinds]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True)
    lines = [line.removeprefix("RESULT ") for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(kinds), ended.stderr[-2000:]
    return {result["kind"]: result for result in map(json.loads, lines)}


@pytest.mark.parametrize("kind", CALLED)
def test_a_packed_layer_takes_changes_exactly_or_is_refused_and_is_put_back(measured, kind):
    if kind not in measured:
        pytest.skip("this host has no such layers")
    if BITS.get(kind) == "bnb" and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    result = measured[kind]
    assert "raised" not in result, result
    assert result["called"] == CALLED[kind]
    assert result["shape"] == [256, 256]
    assert not result["folds"]
    assert result["placed"] == 2
    assert result["restored"]
    assert result["changes"] is (BITS.get(kind) != "bnb")  # that is unpacked on an NVIDIA GPU alone
    if result["changes"]:
        assert result["left_out"] == 0
        assert max(result["error"], result["conv_error"]) < 1e-6
