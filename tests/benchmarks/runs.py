"""What surrounds sampling and decoding: loading, injecting, Stop At's switch, a second run, a cold start."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.timing import Measure, Row, compare

ROOT = Path(__file__).parents[2]
PICTURES = 4
_SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import kin
kin.prepare()
import torch, numpy, PIL.Image, cv2, gradio, safetensors.torch, fastapi, huggingface_hub
import modules.script_callbacks, modules.scripts, modules.shared, modules.processing, modules.images
import modules.ui_components, modules_forge.forge_canvas.canvas, backend.memory_management, backend.attention
from importlib.util import module_from_spec, spec_from_file_location
began = time.{clock}()
spec = spec_from_file_location("layerdiffusion_script", {script!r})
spec.loader.exec_module(module_from_spec(spec))
print(time.{clock}() - began)
"""


def family(device: torch.device, measure: Measure) -> Iterator[Row]:
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
    yield from compare(f"weights of the bundled family, {device}", ways, measure)


def batch(device: torch.device, measure: Measure) -> Iterator[Row]:
    """Seconds a picture of the bundled family, in a job of one worker that has its model; files are written."""
    from lib_layerdiffusion import LayerDiffusion
    from lib_layerdiffusion.engine.batch import BatchJob, TaskRunner
    from lib_layerdiffusion.engine.tasks import read_tasks

    engine = LayerDiffusion.from_checkpoint(device=device)
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name) / "lines.jsonl"
        runner = TaskRunner(BatchJob(lines, Path(name), load=lambda **_: engine))

        def job(count: int, at_once: int) -> None:
            task = {"prompt": "a red apple", "seed": 1, "batch": at_once}
            lines.write_text(f"{json.dumps(task)}\n" * (count // at_once), encoding="utf-8")
            for each in read_tasks(lines):
                if runner(each)["status"] == "failed":
                    raise RuntimeError(f"{each} failed")

        ways = {f"{at_once} a line": lambda at_once=at_once: job(PICTURES, at_once) for at_once in (1, 4)}
        for row in compare(f"batch, a picture, {device}", ways, measure.fewer()):
            yield replace(row, seconds=row.seconds / PICTURES)


def imports(measure: Measure) -> Iterator[Row]:
    """Cold starts: each in a process of its own."""
    fake = ROOT / "tests" / "fake_forge"
    script = _SCRIPT.format(
        paths=[str(ROOT), str(fake / "kin" / "forge"), str(fake)],
        script=str(ROOT / "scripts" / "layerdiffusion.py"),
        clock=measure.clock.__name__,
    )
    _run("-c", script)  # from then on with the bytecode that is kept after the first start
    seconds = statistics.median(float(_run("-c", script).split()[-1]) for _ in range(measure.rounds))
    yield Row("cold starts", "the script's import in Forge, on top of what Forge has imported", seconds, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        picture = ["generate", "a red apple", "--seed", "1", "-o", folder]
        for name, words in (("--help", ["--help"]), ("generate, the bundled family", picture)):
            _spent(measure, words)
            taken = statistics.median(_spent(measure, words) for _ in range(measure.fewer().rounds))
            yield Row("cold starts", f"layerdiffusion {name}", taken, taken / seconds)


def _spent(measure: Measure, words: list[str]) -> float:
    """Seconds of a command, by the processor's time of its process where that is the clock."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    _run("-m", "lib_layerdiffusion", *words)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent if measure.clock is time.process_time else wall


def _run(*words: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True, env=kept)
    return done.stdout.strip()
