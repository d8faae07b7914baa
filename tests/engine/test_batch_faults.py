"""The batch job under faults: no picture lost, none overwritten, none called done that is not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_layerdiffusion.engine import processes
from lib_layerdiffusion.engine.batch import BatchJob, run_batch
from lib_layerdiffusion.engine.manifest import MANIFEST
from lib_layerdiffusion.engine.tasks import read_tasks
from lib_layerdiffusion.errors import HostError, LayerDiffusionError, StorageError
from lib_layerdiffusion.images import files
from tests.engine.test_batch import FakeEngine, job, outcomes, pictures, run
from tests.tiny_family import new_engine, write_layers


def content(folder):
    return {path.name: path.read_bytes() for path in (folder / "out").glob("*.png")}


@pytest.mark.parametrize(
    "lines",
    [
        [{"prompt": "a", "name": "00002"}, {"prompt": "b"}],
        [{"prompt": "b"}, {"prompt": "c", "batch": 2}, {"prompt": "a", "name": "00002-1"}],
        [{"prompt": "a", "name": "00002_2"}, {"prompt": "b"}, {"prompt": "c", "name": "00002"}, {"prompt": "d"}],
    ],
)
def test_a_default_name_gives_way(tmp_path, lines):
    summary = run(job(tmp_path, lines))
    files = [name for item in outcomes(tmp_path) for name in item["files"]]
    assert summary["failed"] == 0
    assert len(files) == len(set(files)) == len(pictures(tmp_path))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "x"}, {"name": "x"}),
        ({"name": "X"}, {"name": "x"}),
        ({"name": "x", "batch": 2}, {"name": "x-1"}),
        ({"name": "x-2"}, {"name": "x", "batch": 2}),
        ({"name": "x-foreground"}, {"name": "x"}),
        ({"name": "x"}, {"name": "x-preview"}),
        ({"name": "x-1-blended"}, {"name": "x", "batch": 2}),
    ],
    ids=str,
)
def test_names_of_which_one_would_write_over_the_other_are_refused(tmp_path, first, second):
    summary = run(job(tmp_path, [{"prompt": "a", **first}, {"prompt": "b", **second}]))
    assert (summary["done"], summary["failed"]) == (1, 1)
    assert "used twice" in summary["errors"][0]["error"]


def test_a_line_put_at_the_top_makes_only_itself(tmp_path):
    lines = [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}]
    run(job(tmp_path, lines))
    before = content(tmp_path)
    summary = run(job(tmp_path, [{"prompt": "new"}, *lines]))
    after = content(tmp_path)
    assert (summary["new"], summary["done"]) == (1, 4)
    assert {name: after[name] for name in before} == before
    assert len(after) == 4


WRONG_LINES = [
    '"\\ud800"',
    '{"prompt": "\\udfff x"}',
    '{"prompt": "a", "name": "\\ud800"}',
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"prompt": "a", "seed": ' + "9" * 5000 + "}",
    '{"prompt": "a", "seed": Infinity}',
    '{"prompt": "a", "foreground": 5}',
    '{"prompt": "a", "layer_prompts": 5}',
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return new_engine(write_layers(tmp_path_factory.mktemp("layers")))


@pytest.mark.parametrize("line", WRONG_LINES, ids=lambda line: line[:25])
def test_a_line_that_cannot_run_stops_neither_this_run_nor_the_next(tmp_path, tiny, line):
    work = job(tmp_path, [line, {"prompt": "good", "steps": 1, "size": 64}], load=lambda: tiny)
    for _ in range(2):
        summary = run(work)
        assert (summary["done"], summary["failed"]) == (1, 1)
        assert summary["errors"][0]["line"] == 1
    assert pictures(tmp_path) == ["00002.png"]


def test_unicodes_own_line_ends_are_no_line_ends(tmp_path):
    lines = [json.dumps({"prompt": f"a{sign}b"}, ensure_ascii=False) for sign in "\u2028\u2029\u0085"]
    work = job(tmp_path, lines)
    assert run(work)["done"] == 3
    assert run(work)["new"] == 0


def test_one_job_at_a_time_writes_into_a_folder(tmp_path):
    started, go = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        def generate(self, prompt, **values):
            started.set()
            go.wait(20)
            return super().generate(prompt, **values)

    work = job(tmp_path, [{"prompt": f"p{i}"} for i in range(3)], load=Slow)
    first = threading.Thread(target=run, args=(work,))
    first.start()
    started.wait(20)
    try:
        with pytest.raises(HostError, match="Another job writes into"):
            run(work)
    finally:
        go.set()
        first.join()
    assert len(pictures(tmp_path)) == 3
    assert run(work)["new"] == 0
    assert {path.suffix for path in work.output.iterdir()} == {".png", ".jsonl"}


@pytest.mark.parametrize("when", [1, 3, 5])
def test_a_folder_that_goes_away_in_the_middle_is_said(tmp_path, when):
    class Vandal(FakeEngine):
        made = 0

        def generate(self, prompt, **values):
            type(self).made += 1
            if type(self).made == when:
                shutil.rmtree(tmp_path / "out")
            return super().generate(prompt, **values)

    work = job(tmp_path, [{"prompt": f"p{i}"} for i in range(5)], load=Vandal)
    with pytest.raises(StorageError, match="removed while the job ran"):
        run(work)
    assert run(work)["done"] == 5
    assert len(pictures(tmp_path)) == 5


def test_pictures_that_go_away_in_the_middle_are_not_called_done(tmp_path):
    class Vandal(FakeEngine):
        def generate(self, prompt, **values):
            for path in (tmp_path / "out").glob("00001.png"):
                path.unlink()
            return super().generate(prompt, **values)

    work = job(tmp_path, [{"prompt": f"p{i}"} for i in range(3)], load=Vandal)
    with pytest.raises(StorageError, match="1 of 3 pictures were made and have gone"):
        run(work)
    assert run(job(tmp_path, [{"prompt": f"p{i}"} for i in range(3)]))["new"] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_takes_no_more_ends_the_job_at_once(tmp_path, monkeypatch, number):
    made = []

    class Counting(FakeEngine):
        def generate(self, prompt, **values):
            made.append(prompt)
            return super().generate(prompt, **values)

    work = job(tmp_path, [{"prompt": f"p{i}"} for i in range(9)], load=Counting)
    written = files.os.fsync

    def full(descriptor):
        if len(made) >= 4:
            raise OSError(number, os.strerror(number))
        written(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(StorageError, match=os.strerror(number)):
            run(work)
    assert len(made) == 4
    assert len(pictures(tmp_path)) == 3
    assert not list((tmp_path / "out").glob(".*.png.*"))
    assert run(work)["done"] == 9
    assert len(made) == 4 + 6


@pytest.mark.parametrize(
    "line",
    [{"files": 5}, {"files": [5]}, {"files": "00001.png"}, {"files": None}, {"files": ["../lines.jsonl"]},
     {"files": []},
     {"key": 7},
     {"line": True}, {"line": "1"}, {"status": ["done"]}, {"status": None}, {"line": 10**30}, {"files": ["a\0b"]}],
    ids=str,
)  # fmt: skip
def test_a_manifest_edited_by_hand_is_read_or_left_out(tmp_path, line):
    work = job(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    run(work)
    path = tmp_path / "out" / MANIFEST
    first, second = (json.loads(text) for text in path.read_text(encoding="utf-8").splitlines())
    path.write_text(json.dumps({**first, **line}) + "\n" + json.dumps(second) + "\n[1]\n5\n\n{}\n" + "[" * 99_999)
    summary = run(work)
    assert summary["done"] == 2
    assert len(pictures(tmp_path)) == 2


def test_an_interrupt_with_two_workers_loses_nothing_that_is_finished(tmp_path):
    lines = [{"prompt": f"p{i}", "steps": 1, "size": 256, "decode_passes": 1, "seed": i} for i in range(60)]
    work = job(tmp_path, lines)
    command = [sys.executable, "-m", "lib_layerdiffusion", "batch", work.lines, "-o", work.output]
    command += ["--workers", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(pictures(tmp_path)) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: everybody gets it
    assert process.wait(120) == 130
    done = {name for item in outcomes(tmp_path) if item["status"] == "done" for name in item["files"]}
    assert done == set(pictures(tmp_path))
    assert 5 <= len(done) < 60
    for name in done:
        with Image.open(work.output / name) as image:
            image.load()
    assert {path.suffix for path in work.output.iterdir()} == {".png", ".jsonl"}


LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)), max_size=20),
    st.dictionaries(
        st.sampled_from(["prompt", "name", "batch", "seed", "negative", "size", "method", "foreground", "x"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=8)),
    ).map(json.dumps),
)  # fmt: skip


@given(st.lists(LINES, min_size=1, max_size=8))
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
def test_any_lines_give_an_outcome_each_and_no_file_two(tmp_path, lines):
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    work = BatchJob(folder / "lines.jsonl", folder / "out", Tolerant)
    try:
        tasks = read_tasks(work.lines)
    except LayerDiffusionError:
        return
    for _ in range(2):
        summary = run_batch(work, processes.way_of(work), quiet=True)
        assert summary["done"] + summary["failed"] == len(tasks)
    names = [name for item in outcomes(folder) for name in item.get("files", [])]
    assert sorted(names) == sorted({*names}) == pictures(folder)


class Tolerant(FakeEngine):
    def generate(self, prompt, seed=0, batch=1, **_):
        plain = batch if isinstance(batch, int) and 1 <= batch < 9 else 1
        return super().generate("p", seed=seed if isinstance(seed, int) else 0, batch=int(plain))
