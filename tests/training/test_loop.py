"""The training loop: resumed runs equal uninterrupted ones, also after a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_layerdiffusion.errors import HostError, SettingsError, StorageError, WeightsError
from lib_layerdiffusion.training.checkpoints import alone_in
from lib_layerdiffusion.training.loop import (
    LoopSettings,
    TrainingLoop,
    averaged,
    learning_rate_factor,
    load_average,
)


class Line:
    """Fits y = 2x with one weight; draws from the step's generator only."""

    def __init__(self, delay=0.0):
        torch.manual_seed(1)
        self.net = nn.Linear(3, 3)
        self.modules, self.frozen = {"net": self.net}, ()
        self.delay = delay

    def loss(self, batch, generator):
        time.sleep(self.delay)
        x = torch.randn(batch, 3, generator=generator)
        error = (self.net(x) - 2 * x).square().mean()
        return error, {"error": error.detach()}

    def sample(self, path):
        path.write_text("sample")


def settings(folder, steps, **options):
    return LoopSettings(folder, steps=steps, bf16=False, warmup=3, **options)


def run(folder, steps, stop_after=None):
    loop = TrainingLoop(Line(), settings(folder, steps))
    if stop_after is not None:
        for _ in range(stop_after):
            loop._one_step()
        loop.save()
        return loop
    loop.run(lambda line: None)
    return loop


def test_resumed_run_is_identical(tmp_path):
    whole = run(tmp_path / "a", 12)
    run(tmp_path / "b", 12, stop_after=5)
    resumed = run(tmp_path / "b", 12)
    assert resumed.step == 12
    assert torch.equal(whole.stage.net.weight, resumed.stage.net.weight)
    assert all(torch.equal(whole.average[key], resumed.average[key]) for key in whole.average)


class Wrapped(Line):
    """The same weights under the names that transformers gives to a text model's, before its fifth release."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("text_model", nn.Linear(3, 3))
        self.modules = {"net": self.net}


@pytest.mark.parametrize(("before", "after"), [(Line, Wrapped), (Wrapped, Line)])
def test_it_goes_on_under_another_release_of_transformers(tmp_path, before, after):
    loop = TrainingLoop(before(), settings(tmp_path, 4))
    loop._one_step()
    loop.save()
    resumed, loaded = TrainingLoop(after(), settings(tmp_path, 4)), after()
    load_average(tmp_path, loaded.modules)
    assert resumed.step == 1
    for mine, resumed_, average in zip(loop.stage.net.parameters(), resumed.stage.net.parameters(),
                                       loaded.net.parameters(), strict=True):  # fmt: skip
        assert torch.equal(mine, resumed_)
        assert torch.equal(average, loop.average[next(key for key, p in loop.parameters.items() if p is mine)])


def test_run_learns_and_keeps_no_graph(tmp_path):
    loop = run(tmp_path, 300)
    assert not any(value.requires_grad for value in loop.average.values())
    before = (Line().net.weight - 2 * torch.eye(3)).square().sum()
    assert (loop.stage.net.weight - 2 * torch.eye(3)).square().sum() < 0.95 * before


def test_averaged_weights_come_and_go(tmp_path):
    loop = run(tmp_path, 8)
    live = loop.stage.net.weight.detach().clone()
    with averaged(loop.stage.modules, loop.average):
        assert torch.equal(loop.stage.net.weight, loop.average["net.weight"])
    assert torch.equal(loop.stage.net.weight, live)
    other = Line()
    load_average(tmp_path, other.modules)
    assert torch.equal(other.net.weight, loop.average["net.weight"])


def test_a_kill_loses_at_most_the_time_since_the_checkpoint(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_loop import Line, settings
        from lib_layerdiffusion.training.loop import TrainingLoop
        folder = Path(sys.argv[1])
        TrainingLoop(Line(0.01), settings(folder, 100000, checkpoint_seconds=0.0)).run()
        """
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(here)], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    loop = TrainingLoop(Line(), settings(tmp_path, 100000))
    assert loop.step > 0
    reference = TrainingLoop(Line(), settings(tmp_path / "reference", 100000))
    for _ in range(loop.step):
        reference._one_step()
    assert torch.equal(loop.stage.net.weight, reference.stage.net.weight)


def test_learning_rate_rises_then_falls():
    rates = [learning_rate_factor(step, step / 100, 10) for step in range(101)]
    assert rates[0] < rates[5] < rates[9]
    assert max(rates) == pytest.approx(1, abs=0.03)
    assert rates[100] == pytest.approx(0.02)


@pytest.mark.parametrize("options", [{}, {"steps": 1, "minutes": 1.0}])
def test_length_must_be_said_once(tmp_path, options):
    with pytest.raises(SettingsError, match="--steps or --minutes"):
        LoopSettings(tmp_path, **options)


def test_missing_stage_is_named(tmp_path):
    with pytest.raises(SettingsError, match="run the stage before"):
        load_average(tmp_path, {})


class TestPlaces:
    def test_a_full_disk_is_a_sentence_and_the_old_checkpoint_stays(self, tmp_path):
        import resource

        run(tmp_path, 12, stop_after=5)
        before = (tmp_path / "checkpoint.pt").read_bytes()
        loop = TrainingLoop(Line(), settings(tmp_path, 12))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(StorageError, match="goes on from its last checkpoint"):
                loop.save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "checkpoint.pt").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]

    def test_a_folder_that_is_none(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="cannot be written"):
            TrainingLoop(Line(), settings(tmp_path / "file", 3))

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04" + b"\0" * 99])
    def test_a_damaged_checkpoint_is_named(self, tmp_path, content):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(WeightsError, match="move it away"):
            TrainingLoop(Line(), settings(tmp_path, 3))

    def test_two_at_once_are_told_of_each_other(self, tmp_path):
        first, second = (TrainingLoop(Line(), settings(tmp_path, 3)) for _ in range(2))
        with alone_in(tmp_path), pytest.raises(HostError, match="Another training"):
            second.run(lambda line: None)
        first.run(lambda line: None)
        assert not (tmp_path / ".lock").exists()
