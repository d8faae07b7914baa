"""What surrounds sampling and decoding: loading, injecting, Stop At's switch, a second run, a cold start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.benchmarks.timing import Row, compare, median_times

ROOT = Path(__file__).parents[2]
_SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import torch, numpy, PIL.Image, cv2, gradio, safetensors.torch, fastapi, huggingface_hub
import modules.script_callbacks, modules.scripts, modules.shared, modules.processing, modules.images
import modules.ui_components, modules_forge.forge_canvas.canvas, backend.memory_management, backend.attention
from importlib.util import module_from_spec, spec_from_file_location
began = time.perf_counter()
spec = spec_from_file_location("layerdiffusion_script", {script!r})
spec.loader.exec_module(module_from_spec(spec))
print(time.perf_counter() - began)
"""


def family(device: torch.device, rounds: int) -> Iterator[Row]:
    """The bundled family: its layer file, its injection, its decoder's weights."""
    from lib_layerdiffusion import LayerDiffusion
    from lib_layerdiffusion.hosts.diffusers.unet import prepare_patch
    from lib_layerdiffusion.unet.injection import Injection

    engine = LayerDiffusion.from_checkpoint(device=device)
    method = engine.find_method("transparent")
    injection = Injection(method, engine.store.layer(method))
    unet = engine.host.pipeline.unet
    patch = prepare_patch(unet, injection, device)

    def load() -> None:
        engine.store.forget()
        engine.store.layer(method)

    def switch() -> None:
        patch.enable()
        patch.disable()

    ways = {
        "read the layer file": load,
        "read it again": lambda: engine.store.layer(method),
        "merge it with the UNet": lambda: prepare_patch(unet, injection, device),
        "see that a merge is current": patch.is_current,
        "put it in and take it out, as Stop At does": switch,
    }
    yield from compare(f"weights of the bundled family, {device}", ways, rounds=rounds)


def imports(rounds: int) -> Iterator[Row]:
    """Cold starts: each in a process of its own."""
    fake = ROOT / "tests" / "fake_forge"
    script = _SCRIPT.format(paths=[str(ROOT), str(fake)], script=str(ROOT / "scripts" / "layerdiffusion.py"))
    seconds = sorted(float(_python("-c", script)) for _ in range(rounds))[rounds // 2]
    yield Row("cold starts", "the script's import in Forge, on top of what Forge has imported", seconds, 1.0)
    command = [sys.executable, "-m", "lib_layerdiffusion"]

    for words in (["--help"],):
        times = median_times(
            {"": lambda words=words: subprocess.run([*command, *words], cwd=ROOT, check=True, capture_output=True)},
            rounds,
        )
        yield Row("cold starts", f"layerdiffusion {' '.join(words)}", times[""], times[""] / seconds)
    yield _picture(command, seconds)


def _picture(command: list[str], first: float) -> Row:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        words = ["generate", "a red apple", "--seed", "1", "-o", folder]
        subprocess.run([*command, *words], cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    return Row("cold starts", "layerdiffusion generate, the bundled family", seconds, seconds / first)


def _python(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]
