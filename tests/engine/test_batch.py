"""The batch job: every line once, whatever fails or is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from PIL import Image

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.engine import batch_ray, processes
from lib_layerdiffusion.engine.batch import BatchJob, run_batch
from lib_layerdiffusion.engine.manifest import MANIFEST, Manifest
from lib_layerdiffusion.engine.results import LayerPicture, Result
from lib_layerdiffusion.engine.tasks import read_tasks
from lib_layerdiffusion.errors import InputError, LayerDiffusionError, SettingsError
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.settings.infotext import parse_parameters
from lib_layerdiffusion.settings.parsing import LayerSettings
from tests.tiny_family import write_family

ROOT = Path(__file__).parents[2]


class FakeEngine:
    """Draws its seed."""

    def generate(self, prompt, seed, batch=1, **_):
        if prompt == "bad":
            raise SettingsError("This prompt is bad.")
        if prompt == "fault":
            raise ZeroDivisionError("division by zero")
        pictures = tuple(
            LayerPicture({Layer.FOREGROUND: Image.new("RGBA", (64, 64), (seed + i) % 256)}, seed + i, prompt)
            for i in range(batch)
        )
        return Result(pictures, LayerSettings(), seed, {})


def job(folder, lines, **values):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "lines.jsonl").write_text(text + "\n", encoding="utf-8")
    return BatchJob(folder / "lines.jsonl", folder / "out", **{"load": FakeEngine, **values})


def run(work):
    return run_batch(work, processes.way_of(work))


def outcomes(folder):
    return [json.loads(line) for line in (folder / "out" / MANIFEST).read_text(encoding="utf-8").splitlines()]


def pictures(folder):
    return sorted(path.name for path in (folder / "out").glob("*.png"))


class ChainEngine(FakeEngine):
    """Says which chain it was asked for, in the infotext."""

    def extract_foreground(self, *, background, prompt, scene, **arguments):
        return self.generate(f"{prompt} before {scene}, off {Path(background).name}", **arguments)

    def extract_background(self, *, foreground, prompt, scene, **arguments):
        return self.generate(f"{scene} behind {prompt}, under {Path(foreground).name}", **arguments)


def infotext_of(path):
    return Image.open(path).info["parameters"]


def test_a_line_with_a_scene_is_a_chain(tmp_path):
    lines = [
        {"prompt": "old man", "scene": "a park", "background": "bench.jpg", "name": "man"},
        {"prompt": "rocket", "scene": "", "foreground": "rocket.png", "name": "rocket"},
    ]
    assert run(job(tmp_path, lines, load=ChainEngine))["done"] == 2
    assert infotext_of(tmp_path / "out" / "man.png") == "old man before a park, off bench.jpg"
    assert infotext_of(tmp_path / "out" / "rocket.png") == " behind rocket, under rocket.png"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, 'begins with a "background" or a "foreground"'),
        ({"background": "a.png", "foreground": "b.png"}, "give one"),
        ({"background": "a.png", "method": "transparent"}, 'takes no "method"'),
        ({"background": "a.png", "strength": 0.5}, 'takes no "strength"'),
        ({"background": "a.png", "scene": 3}, '"scene" must be text'),
    ],
)
def test_a_chain_that_cannot_be_is_a_failed_line(tmp_path, more, said):
    summary = run(job(tmp_path, [{"prompt": "x", "scene": "y", **more}], load=ChainEngine))
    assert summary["failed"] == 1
    assert said in summary["errors"][0]["error"]


def test_one_picture_a_line(tmp_path):
    summary = run(job(tmp_path, [{"prompt": "a"}, {"prompt": "b", "name": "my cat"}, {"prompt": "c", "batch": 2}]))
    assert pictures(tmp_path) == ["00001.png", "00003-1.png", "00003-2.png", "my cat.png"]
    assert (summary["done"], summary["failed"], summary["lines"]) == (3, 0, 3)
    assert [item["files"] for item in outcomes(tmp_path)] == [
        ["00001.png"],
        ["my cat.png"],
        ["00003-1.png", "00003-2.png"],
    ]


def test_a_failed_line_is_reported_and_stops_nothing(tmp_path):
    lines = [{"prompt": "bad"}, "{broken", {"prompt": "fault"}, {"prompt": "good"}, {"promt": "x"}, "[1]"]
    lines += [{"prompt": "x", "sise": 1}, *({"prompt": "x", "name": name} for name in ("../x", "same", "same"))]
    summary = run(job(tmp_path, lines))
    assert (summary["done"], summary["failed"]) == (2, 8)
    assert pictures(tmp_path) == ["00004.png", "same.png"]
    reasons = {item["line"]: item.get("error", "") for item in outcomes(tmp_path)}
    assert reasons[1] == "This prompt is bad."
    assert "no JSON" in reasons[2]
    assert "ZeroDivisionError" in reasons[3]
    assert '"sise" is unknown' in reasons[7]
    assert "no name for a file" in reasons[8]
    assert "used twice" in reasons[10]


def test_a_second_run_makes_only_what_is_missing(tmp_path):
    work = job(tmp_path, [{"prompt": f"p{i}"} for i in range(4)])
    run(work)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    content = (tmp_path / "out" / "00002.png").read_bytes()
    (tmp_path / "out" / "00002.png").unlink()
    assert run(work)["new"] == 1
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert [name for name in before if before[name] != after[name]] == ["00002.png"]
    assert (tmp_path / "out" / "00002.png").read_bytes() == content  # the same seed without being told
    assert run(work)["new"] == 0


def test_a_line_that_was_changed_is_made_again_and_a_failed_one_is_tried_again(tmp_path):
    run(job(tmp_path, [{"prompt": "a"}, {"prompt": "bad"}, {"prompt": "c"}]))
    summary = run(job(tmp_path, [{"prompt": "a"}, {"prompt": "good"}, {"prompt": "C"}]))
    assert (summary["new"], summary["done"], summary["failed"]) == (2, 3, 0)
    assert sorted(item["line"] for item in outcomes(tmp_path) if item["status"] == "done")[:3] == [1, 2, 3]


def test_a_manifest_that_was_cut_loses_its_last_line_only(tmp_path):
    work = job(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    run(work)
    path = tmp_path / "out" / MANIFEST
    path.write_bytes(path.read_bytes()[:-7])
    assert run(work)["new"] == 1
    assert [item["line"] for item in outcomes(tmp_path)] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00bad"], ids=["empty", "blank", "no text"])
def test_a_file_without_lines_is_refused(tmp_path, content):
    (tmp_path / "lines.jsonl").write_bytes(content)
    with pytest.raises(InputError):
        run(BatchJob(tmp_path / "lines.jsonl", tmp_path / "out", FakeEngine))


def test_workers_out_of_range_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="Workers"):
        run(job(tmp_path, [{"prompt": "a"}], workers=0))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LayerDiffusionError, match="cannot be written"):
        run(job(tmp_path, [{"prompt": "a"}]))


def test_paths_of_pictures_start_at_the_file_of_lines(tmp_path):
    work = job(tmp_path, [{"prompt": "a", "foreground": "in/fg.png", "mask": "m.png", "init": "i.png"}])
    values = read_tasks(work.lines)[0].values
    assert values["foreground"] == str(tmp_path / "in" / "fg.png")
    assert (values["mask"], values["init_image"]) == (str(tmp_path / "m.png"), str(tmp_path / "i.png"))


def test_the_manifest_is_compact_when_it_is_opened(tmp_path):
    lines = [{"line": 1, "key": "a", "status": status} for status in ("failed", "failed", "done")]
    tmp_path.joinpath(MANIFEST).write_text("\n".join([*map(json.dumps, lines), "{cut", '"text"', '{"line": "x"}']))
    Manifest(tmp_path)
    assert tmp_path.joinpath(MANIFEST).read_text() == json.dumps(lines[-1]) + "\n"


def test_killed_in_the_middle_it_goes_on_without_loss_or_doubles(tmp_path):
    write_family(tmp_path / "model")
    lines = [{"prompt": f"apple {i}", "steps": 1, "decode_passes": 1, "size": 64, "seed": 100 + i} for i in range(20)]
    work = job(tmp_path, lines)
    command = [sys.executable, "-m", "lib_layerdiffusion", "batch", work.lines, "-o", work.output, "--device", "cpu"]
    command += ["--checkpoint", tmp_path / "model"]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 300
    while len(pictures(tmp_path)) < 6:
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = {name: (work.output / name).stat().st_mtime_ns for name in pictures(tmp_path)}
    assert len(made) < 20

    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert pictures(tmp_path) == [f"{i:05d}.png" for i in range(1, 21)]
    assert sorted(item["line"] for item in outcomes(tmp_path)) == list(range(1, 21))
    # At most the picture whose line of the manifest was still missing is made twice.
    assert sum((work.output / name).stat().st_mtime_ns != before for name, before in made.items()) <= 1
    seeds = []
    for name in pictures(tmp_path):
        with Image.open(work.output / name) as image:
            image.load()
            assert (image.mode, image.size) == ("RGBA", (64, 64))
            seeds.append(parse_parameters(image.info["parameters"])["Seed"])
    assert seeds == [str(100 + i) for i in range(20)]
    assert {path.suffix for path in work.output.iterdir()} == {".png", ".jsonl"}


def test_ray_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LayerDiffusionError, match=r"pip install 'ray\[data\]'"):
        run_batch(job(tmp_path, [{"prompt": "a"}]), batch_ray.outcomes)


def test_several_processes_share_the_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = [{"prompt": f"p{i}", "steps": 1, "size": 256, "seed": i} for i in range(4)] + [{"prompt": "x", "size": 3}]
    summary = run(job(tmp_path, lines, workers=2, load=LayerDiffusion.from_checkpoint, model={"device": "cpu"}))
    assert (summary["done"], summary["failed"]) == (4, 1)
    assert pictures(tmp_path) == [f"{i:05d}.png" for i in range(1, 5)]


def test_devices_take_turns(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    work = job(tmp_path, [{"prompt": "a"}])
    assert processes._device_names(work, 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert processes._device_names(replace(work, model={"device": "cpu"}), 2) == ["", ""]


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"seed": True},
        {"batch": "x"},
        {"guidance": "nan"},
        {"strength": 2},
        {"size": "wide"},
        {"size": [100, 64]},
        {"weight": 9},
        {"stop_at": -1},
        {"decode_passes": 3},
        {"resize_mode": "Stretch"},
        {"negative": 5},
    ],
    ids=str,
)
def test_a_value_that_no_model_takes_is_said_before_one_is_loaded(tmp_path, values):
    def load(**_):
        pytest.fail("a model was loaded")

    summary = run(job(tmp_path, [{"prompt": "a", **values}], load=load))
    (error,) = summary["errors"]
    named = next(iter(values)) if values != {"size": [100, 64]} else "100x64"
    assert f"Line 1: {named}" in error["error"] or named in error["error"].partition(": ")[2]
