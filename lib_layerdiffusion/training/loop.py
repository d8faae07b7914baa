"""One training loop for every stage: seeded, scheduled by steps or by minutes of computing, resumable after a kill.

A stage brings its modules and a loss; every random number of step n comes from a generator seeded with (seed, n), so a
resumed run goes on exactly as one that was never stopped. It is drawn where the stage computes, so a CPU and a GPU see
different pictures.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.checkpoints import (
    CHECKPOINT,
    alone_in,
    averaged,
    named_parameters,
    read_checkpoint,
    save_whole,
    storing,
)
from lib_layerdiffusion.training.devices import (
    Backward,
    Figures,
    Pace,
    chosen_device,
    make_norms_lean,
    own_stream,
    place,
    use_fast_kernels,
)


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train. Exactly one of `steps`, `minutes` and `until` is set.

    Steps and minutes count over all resumptions; minutes are of computing, not of the clock on the wall. until: a
    moment of that clock, in seconds as `time.time()` gives them, for stages that share one budget.
    """

    folder: Path
    steps: int | None = None
    minutes: float | None = None
    until: float | None = None
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    ema_decay: float = 0.999
    seed: int = 0
    bf16: bool = True
    threads: int = 2
    """CPU threads; 0 adapts to the machine's load, for training in the background."""
    checkpoint_seconds: float = 60.0
    sample_steps: int = 1000
    device: str | None = None
    """Such as "cuda:1"; None for the fastest."""
    compile: bool = False
    """Let torch.compile make kernels for the stage's networks first: most of a minute, then faster steps on CUDA."""
    graphs: bool = True
    """On CUDA, run a step's kernels as one graph."""

    def __post_init__(self) -> None:
        if sum(length is not None for length in (self.steps, self.minutes, self.until)) != 1:
            raise SettingsError("Say how long to train: give either --steps or --minutes.")


class Stage(Protocol):
    """What a stage brings to the loop."""

    modules: Mapping[str, nn.Module]
    """What is trained."""
    frozen: Sequence[nn.Module]
    """What is only used; the loop moves it to the device as well."""

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch and return the scalar to minimise and scalars to log, without waiting for the device."""
        ...

    def compile(self) -> None:
        """Compile what pays to be compiled."""
        ...

    def sample(self, path: Path) -> None:
        """Write a picture that shows where training stands."""
        ...


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one step on one process."""
    return (seed * 1_000_003 + step) * 64 + rank


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Return the generator of one step on one process, on the CPU."""
    return torch.Generator().manual_seed(step_seed(seed, step, rank))


def idle_threads(limit: int = 2) -> int:
    """How many threads to use beside other programs: on a busy machine one thread is several times faster than two.

    Two threads wait for each other at every operation; where others hold one of the cores both stand still.
    """
    return limit if os.getloadavg()[0] < limit + 1 else 1


def learning_rate_factor(step: int, progress: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then a cosine over `progress` (0 to 1) down to 2 %."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@dataclass
class TrainingLoop:
    """Runs a stage to its end; construct it again on the same folder to go on from the last checkpoint."""

    stage: Stage
    settings: LoopSettings
    step: int = 0
    elapsed: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        torch.set_num_threads(self.settings.threads or idle_threads())
        self.accelerator = _accelerator() if self.settings.device is None else None
        self.device = self.accelerator.device if self.accelerator else chosen_device(self.settings.device)
        use_fast_kernels(self.device)
        place(self.stage, self.device)
        if self.device.type == "cuda" and self.settings.bf16:
            make_norms_lean(self.stage)
        if self.settings.compile:
            self.stage.compile()
        named = named_parameters(self.stage.modules)
        self.parameters = {key: value for key, value in named.items() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters.values() if p.ndim > 1]},
                {"params": [p for p in self.parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
        )
        self.backward = Backward(self._compute, self.device, graphs=self.settings.graphs)
        self.begun = time.time()
        self.average = {key: value.detach().clone() for key, value in self.parameters.items()}
        with storing(self.settings.folder):
            self.settings.folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.settings.folder / CHECKPOINT

    @property
    def progress(self) -> float:
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        if self.settings.until is not None:
            return (time.time() - self.begun) / max(self.settings.until - self.begun, 1e-3)
        return self.elapsed / (60 * (self.settings.minutes or 1))

    def run(self, report: Callable[[str], None] = print) -> None:
        """Train until the budget is spent; writes checkpoints, metrics.jsonl and sample pictures on the way.

        Raises:
            StorageError: something cannot be written. HostError: another process trains in the folder.
        """
        folder = self.settings.folder
        with storing(folder), alone_in(folder, is_writer=self.is_writer), own_stream(self.device):
            self._train(report)
            self.save()
            self.sample()

    @property
    def is_writer(self) -> bool:
        """Whether this process writes what all of them have in common."""
        return self.accelerator is None or self.accelerator.is_main_process

    def _train(self, report: Callable[[str], None]) -> None:
        saved = logged = time.monotonic()
        figures: dict[str, Tensor] = {}
        pace = Pace(self.device)
        while self.progress < 1:
            if self.settings.threads == 0 and self.step % 20 == 0:
                torch.set_num_threads(idle_threads())
            started = self._clock()
            values = self._one_step()
            pace.step()
            self.elapsed += self._clock() - started
            for key, value in values.items():
                figures[key] = value.clone() if key not in figures else torch.lerp(figures[key], value, 0.02)
            now = time.monotonic()
            if now - logged > 15:
                logged = now
                self._log(figures, report)
            if self.step % self.settings.sample_steps == 0:
                self.sample()
            if now - saved > self.settings.checkpoint_seconds:
                saved = now
                self.save()

    def _clock(self) -> float:
        """Seconds of computing: on a CPU the process's own time, so that a starved run does its whole schedule."""
        if self.device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        return time.monotonic()

    def _compute(self, generator: torch.Generator) -> Figures:
        """Loss and gradients of one step."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            loss, figures = self.stage.loss(self.settings.batch, generator)
        loss.backward()
        return {"loss": loss.detach(), **figures}

    def _one_step(self) -> Figures:
        rank = self.accelerator.process_index if self.accelerator else 0
        factor = learning_rate_factor(self.step, self.progress, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        figures = self.backward(step_seed(self.settings.seed, self.step, rank), list(self.parameters.values()))
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self.accelerator and self.accelerator.num_processes > 1:
            for gradient in gradients:
                gradient.copy_(self.accelerator.reduce(gradient, "mean"))
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        decay = min(self.settings.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        return figures

    def _log(self, smooth: Mapping[str, Tensor], report: Callable[[str], None]) -> None:
        if not self.is_writer:
            return
        figures = {key: float(value) for key, value in smooth.items()}
        row = {
            "step": self.step,
            "minutes": round(self.elapsed / 60, 2),
            **{k: round(v, 5) for k, v in figures.items()},
        }
        with (self.settings.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        done = int(30 * min(self.progress, 1))
        text = " ".join(f"{key} {value:.4f}" for key, value in figures.items())
        report(f"[{'#' * done}{'.' * (30 - done)}] step {self.step} {self.elapsed / 60:.1f} min {text}")
        _tensorboard(self.settings.folder, row)

    def sample(self) -> None:
        """Write the stage's sample picture with averaged weights."""
        if not self.is_writer:
            return
        with averaged(self.stage.modules, self.average), torch.no_grad(), _uncompiled(self.settings.compile):
            self.stage.sample(self.settings.folder / "sample.png")

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves either the old or the new one.

        Raises:
            StorageError: it cannot be written; the old one stays.
        """
        if not self.is_writer:
            return
        state = {
            "step": self.step,
            "elapsed": self.elapsed,
            "parameters": {key: value.detach() for key, value in self.parameters.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        save_whole(state, self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint, self.device)
        self.step, self.elapsed = state["step"], state["elapsed"]
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(state["parameters"][key])
        self.average = {
            key: value.detach().requires_grad_(requires_grad=False) for key, value in state["average"].items()
        }
        self.optimizer.load_state_dict(state["optimizer"])


def load_average(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load the averaged weights of a finished (or interrupted) stage into some of its modules.

    Raises:
        SettingsError: the stage has no checkpoint yet.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise SettingsError(f"There is no checkpoint in {folder}; run the stage before this one first.")
    average = read_checkpoint(path, torch.device("cpu"))["average"]
    targets = named_parameters(modules)
    with torch.no_grad():
        for key, value in average.items():
            if key.partition(".")[0] in modules:
                targets[key].copy_(value)


def _uncompiled(compiled: bool) -> AbstractContextManager[Any]:  # noqa: FBT001
    """No compiling for the few calls of other sizes that a sample makes."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _accelerator() -> Any | None:
    """Accelerate's handle where it is installed and there is something to distribute or a GPU; else None."""
    if not torch.cuda.is_available() and "RANK" not in os.environ:
        return None
    try:
        from accelerate import Accelerator
    except ImportError:
        return None
    return Accelerator()


def _tensorboard(folder: Path, row: Mapping[str, float]) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for key, value in row.items():
            writer.add_scalar(key, value, int(row["step"]))
