"""Runs over HTTP: what is asked for comes out, in order, with progress, and can be stopped and found again."""

from __future__ import annotations

import io
import json
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.routes import PREFIX
from tests.tiny_family import picture

EVERYTHING = "(SD1.5) Generate Everything Together (need batch size 3)"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA")).astype(int)


class TestWhatComesOut:
    def test_the_picture_is_the_engines_own(self, client, engine):
        job = client.run(seed="9007199254740993", steps=4, sampler="DPM++ 2M Karras", guidance=2.5)
        assert (job["state"], job["error"]) == ("done", None)
        (layer,) = job["pictures"][0]["layers"]
        image = client.picture(layer["url"])
        arguments = {"seed": 9007199254740993, "steps": 4, "sampler": "DPM++ 2M Karras", "guidance": 2.5}
        own = engine.generate("an apple", **arguments).images[0]
        assert np.array_equal(pixels(image), pixels(own.rgba))
        assert image.info["parameters"] == own.infotext == job["infotext"]
        assert layer["alpha"]

    def test_seeds_beyond_what_javascript_counts_are_exact(self, client):
        for seed in (2**53 + 1, str(2**63 - 1)):
            job = client.run(seed=seed)
            assert job["seed"] == str(seed) == job["pictures"][0]["seed"] == job["request"]["seed"]
            assert f"Seed: {seed}," in job["infotext"]

    @pytest.mark.parametrize("seed", [None, "", -1, "-1"])
    def test_no_seed_draws_one_that_repeats_the_picture(self, client, seed):
        first = client.run(seed=seed)
        again = client.get(f"jobs/{client.post('generate', first['request'], status=202)['id']}?wait=60")
        one, two = (client.picture(job["pictures"][0]["layers"][0]["url"]) for job in (first, again))
        assert np.array_equal(pixels(one), pixels(two))
        assert first["seed"] != client.run(seed=seed)["seed"]

    def test_every_method_that_the_model_can_run(self, client):
        rows = client.get("methods")["methods"]
        assert [row["label"] for row in rows if row["usable"]] == list(METHODS)
        sent = {layer: client.post("pictures", content=png(picture(64, 64, 3)))["name"] for layer in Layer}
        for row in rows:
            pictures = {name: sent[Layer(name)] for name in row["inputs"]}
            job = client.run(method=row["label"], decode_passes=1, **pictures)
            assert job["state"] == "done", job["error"]
            made = [(layer["layer"], layer["alpha"]) for layer in job["pictures"][0]["layers"]]
            assert sorted(made) == sorted((layer["layer"], layer["alpha"]) for layer in row["layers"])

    def test_layers_come_as_zip_and_as_layered_file(self, client):
        job = client.run(method=EVERYTHING, batch=2, seed=5, decode_passes=1)
        archive = zipfile.ZipFile(io.BytesIO(client.get(job["zip"]).content))
        assert len(archive.namelist()) == 6
        for name in archive.namelist():
            assert Image.open(archive.open(name)).info["parameters"].startswith("an apple")
        stack = read_ora(client.get(job["pictures"][1]["files"]["ora"]).content)
        foreground = next(layer for layer in stack.layers if layer.name == "foreground")
        told = {layer["layer"]: layer for layer in job["pictures"][1]["layers"]}
        shown = client.picture(told["foreground"]["url"])
        assert np.array_equal(foreground.picture, np.asarray(shown))
        assert job["pictures"][1]["seed"] == "8"

    def test_a_result_goes_on_as_the_next_ones_picture(self, client, engine):
        first = client.run(seed=2, decode_passes=1)
        name = first["pictures"][0]["layers"][0]["name"]
        goes_on = next(row for row in client.get("methods")["methods"] if row["label"] == first["method"])["next"]
        job = client.run(method=goes_on["foreground"], foreground=name, seed=3)
        own = engine.generate("an apple", seed=2, decode_passes=1).images[0].rgba
        expected = engine.generate("an apple", method="fg-to-blend", foreground=own, seed=3).images[0].blended
        assert np.array_equal(pixels(client.picture(job["pictures"][0]["layers"][0]["url"])), pixels(expected))
        assert job["request"]["foreground"] == name

    def test_a_chain_takes_who_and_the_scene_apart(self, client, engine):
        photo = picture(64, 64, 4)
        sent = client.post("pictures", content=png(photo))["name"]
        job = client.run("chain", prompt="a cat", scene="a sofa", background=sent, seed=6)
        assert job["state"] == "done", job["error"]
        own = engine.extract_foreground(background=photo, prompt="a cat", scene="a sofa", seed=6).images[0]
        layers = {layer["layer"]: layer for layer in job["pictures"][0]["layers"]}
        assert [name for name, layer in layers.items() if layer["given"]] == ["background"]
        for name, layer in layers.items():
            assert np.array_equal(pixels(client.picture(layer["url"])), pixels(own.layers[Layer(name)]))
        assert (job["request"]["prompt"], job["request"]["scene"]) == ("a cat", "a sofa")
        again = client.get(f"jobs/{client.post('chain', job['request'], status=202)['id']}?wait=60")
        assert again["state"] == "done"

    def test_an_init_picture_and_a_mask(self, client, engine):
        init, mask = picture(64, 64, 5), Image.new("L", (64, 64), 0)
        mask.paste(255, (0, 0, 32, 64))
        names = [client.post("pictures", content=png(image))["name"] for image in (init, mask)]
        job = client.run(init=names[0], mask=names[1], strength=0.9, seed=4)
        shown = client.picture(job["pictures"][0]["layers"][0]["url"])
        own = engine.generate("an apple", init_image=init, mask=mask, strength=0.9, seed=4).images[0].rgba
        assert np.array_equal(pixels(shown), pixels(own))

    def test_one_request_gives_a_picture_where_a_picture_is_asked_for(self, client):
        answer = client.post("generate", {"prompt": "an apple", "seed": 3}, headers={"Accept": "image/png"})
        assert Image.open(io.BytesIO(answer.content)).mode == "RGBA"
        refused = client.post(
            "generate", {"prompt": "x", "method": "fg-to-blend"}, status=422, headers={"Accept": "image/png"}
        )
        assert "foreground" in refused["detail"]


class TestTheQueue:
    def test_one_after_the_other_and_each_is_told_its_place(self, held):
        client, (worker,) = held()
        jobs = [client.post("generate", {"prompt": str(number)}, status=202)["id"] for number in range(3)]
        until(lambda: len(worker.ran) == 1)
        assert [client.get(f"jobs/{job}")["position"] for job in jobs] == [None, 0, 1]
        assert client.get("status")["waiting"] == 2
        worker.go(9)
        assert [client.get(f"jobs/{job}?wait=20")["state"] for job in jobs] == ["done"] * 3
        assert [asked.arguments["prompt"] for asked in worker.ran] == ["0", "1", "2"]

    def test_two_workers_run_two_at_once(self, held):
        client, workers = held(workers=2)
        for number in range(3):
            client.post("generate", {"prompt": str(number)}, status=202)
        until(lambda: [len(worker.ran) for worker in workers] == [1, 1])
        assert (client.get("status")["running"], client.get("status")["waiting"]) == (2, 1)

    def test_a_full_queue_says_so_and_takes_more_when_there_is_room(self, held):
        client, (worker,) = held(Limits(queue=2))
        client.post("generate", {"prompt": "runs"}, status=202)
        until(lambda: worker.ran)
        waiting = [client.post("generate", {"prompt": "waits"}, status=202) for _ in range(2)]
        refused = client.http.post(f"{PREFIX}/generate", json={"prompt": "too many"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        client.post(f"jobs/{waiting[0]['id']}/stop")
        client.post("generate", {"prompt": "waits"}, status=202)

    def test_stop_takes_a_waiting_run_out_and_ends_a_running_one_at_its_next_step(self, held):
        client, (worker,) = held()
        running, waiting, last = (client.post("generate", {"prompt": "x"}, status=202)["id"] for _ in range(3))
        until(lambda: worker.ran)
        assert client.post(f"jobs/{waiting}/stop")["state"] == "stopped"
        assert client.post(f"jobs/{running}/stop")["state"] == "running"
        worker.go()
        assert client.get(f"jobs/{running}?wait=20")["state"] == "stopped"
        worker.go(3)
        assert client.get(f"jobs/{last}?wait=20")["state"] == "done"
        assert len(worker.ran) == 2

    def test_stopping_all_of_a_client_leaves_the_others(self, held):
        client, (worker,) = held()
        for name in ("me", "me", "you", "me"):
            client.post("generate", {"prompt": name, "client": name}, status=202)
        until(lambda: worker.ran)
        assert client.post("stop", {"client": "me"}) == {"stopped": 3}
        worker.go(4)
        until(lambda: client.get("jobs?client=you")["jobs"][0]["state"] == "done")
        assert [job["state"] for job in client.get("jobs?client=me")["jobs"]] == ["stopped"] * 3

    def test_a_reload_finds_its_runs_newest_first_and_nobody_elses(self, held):
        client, _ = held()
        own = [client.post("generate", {"prompt": str(n), "client": "tab-1"}, status=202)["id"] for n in range(2)]
        client.post("generate", {"prompt": "x", "client": "tab-2"}, status=202)
        client.post("generate", {"prompt": "x"}, status=202)
        found = client.get("jobs?client=tab-1")["jobs"]
        assert [job["id"] for job in found] == own[::-1]
        assert found[1]["request"]["prompt"] == "0"
        client.get("jobs", status=422)

    def test_a_run_whose_page_is_gone_ends_and_others_do_not(self, held):
        client, (worker,) = held(Limits(attended_seconds=0.4))
        page = client.post("generate", {"prompt": "x", "attended": True}, status=202)["id"]
        program = client.post("generate", {"prompt": "x"}, status=202)["id"]
        until(lambda: client.service.board.find(page).is_stopping)
        worker.go()
        until(lambda: client.service.board.find(page).state.is_final)
        assert client.get(f"jobs/{page}")["state"] == "stopped"
        worker.go(3)
        assert client.get(f"jobs/{program}?wait=20")["state"] == "done"

    def test_a_page_that_looks_keeps_its_run(self, held):
        client, (worker,) = held(Limits(attended_seconds=0.6))
        page = client.post("generate", {"prompt": "x", "attended": True}, status=202)["id"]
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert client.get(f"jobs/{page}")["state"] in {"queued", "running"}
            time.sleep(0.1)
        worker.go(3)
        assert client.get(f"jobs/{page}?wait=20")["state"] == "done"

    def test_what_fails_says_why_and_the_next_run_works(self, held):
        client, (worker,) = held()
        worker.failing.append(InputError("This picture is too blue: make it red."))
        jobs = [client.post("generate", {"prompt": "x"}, status=202)["id"] for _ in range(2)]
        worker.go(4)
        failed = client.get(f"jobs/{jobs[0]}?wait=20")
        assert (failed["state"], failed["error"]) == ("failed", "This picture is too blue: make it red.")
        assert client.get(f"jobs/{jobs[1]}?wait=20")["state"] == "done"

    def test_a_fault_of_ours_is_in_the_log_and_not_in_the_answer(self, held, caplog):
        client, (worker,) = held()
        worker.failing.append(ZeroDivisionError("secret detail"))
        job = client.post("generate", {"prompt": "x"}, status=202)["id"]
        worker.go()
        failed = client.get(f"jobs/{job}?wait=20")
        assert failed["state"] == "failed"
        assert "secret" not in failed["error"]
        assert "secret detail" in caplog.text

    def test_results_go_after_a_while_and_the_oldest_where_they_are_too_many(self, held):
        client, (worker,) = held(Limits(kept_bytes=40_000))  # a picture and its preview take 28,672
        worker.go(9)
        first, second, third = (client.run()["id"] for _ in range(3))
        until(lambda: client.http.get(f"{PREFIX}/jobs/{first}").status_code == 404)
        client.get(f"jobs/{second}", status=404)
        client.get(f"jobs/{third}")
        client, (worker,) = held(Limits(kept_seconds=0.5))
        worker.go(3)
        job = client.run()
        until(lambda: client.http.get(f"{PREFIX}/jobs/{job['id']}").status_code == 404)

    def test_a_forgotten_run_is_gone_with_its_pictures(self, client):
        job = client.run()
        url = job["pictures"][0]["layers"][0]["url"]
        assert client.http.delete(f"{PREFIX}/jobs/{job['id']}").status_code == 204
        client.get(f"jobs/{job['id']}", status=404)
        client.get(url, status=404)


class TestEvents:
    def test_every_change_until_the_end(self, client):
        job = client.post("generate", {"prompt": "an apple", "seed": 1}, status=202)["id"]
        seen = []
        with client.http.stream("GET", f"{PREFIX}/jobs/{job}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            seen = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        assert seen[-1]["state"] == "done"
        assert seen[-1]["pictures"]
        fractions = [event["progress"]["fraction"] for event in seen]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        assert {event["progress"]["total"] for event in seen} == {3 + 9}

    def test_of_a_run_that_is_over_and_of_none(self, client):
        job = client.run()["id"]
        answer = client.http.get(f"{PREFIX}/jobs/{job}/events")
        assert answer.text.count("event: job") == 1
        assert "no such run" in client.get(f"jobs/{'0' * 32}/events", status=404)["detail"]


def test_every_address_of_a_run_is_there(client):
    job = client.run(preview=True, rgb_and_mask=True, output_origin=True, steps=1)
    (picture,) = job["pictures"]
    (layer,) = picture["layers"]
    named = {kind: layer[kind] for kind in ("url", "preview", "origin", "rgb", "mask")}
    assert all(named.values())
    modes = {kind: client.picture(url).mode for kind, url in named.items()}
    assert modes == {"url": "RGBA", "preview": "RGB", "origin": "RGB", "rgb": "RGB", "mask": "L"}
    for url in (*picture["files"].values(), job["zip"]):
        assert client.get(url).content
