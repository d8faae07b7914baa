"""The same server on two replicas of a Ray Serve deployment."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray.serve")

from PIL import Image

from lib_layerdiffusion.images.reading import encode_picture
from lib_layerdiffusion.server.service import Service
from tests.server.conftest import client_of
from tests.server.test_runs import pixels, until
from tests.tiny_family import new_engine, picture, write_layers

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    import ray

    from lib_layerdiffusion.server.ray_serve import Plan, close, deploy

    layers = write_layers(tmp_path_factory.mktemp("layers"))
    cluster = {"num_cpus": 4, "include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": ROOT}}}
    workers, facts = deploy(Plan(new_engine, {"layers": layers}), 2, **cluster)
    service = Service(workers, facts)
    yield client_of(service)
    service.board.close()
    close()
    ray.shutdown()


def test_two_runs_at_once_come_out_as_here(client, engine):
    ids = [client.post("generate", {"prompt": "an apple", "seed": n}, status=202)["id"] for n in (1, 2)]
    for seed, name in zip((1, 2), ids, strict=True):
        job = client.get(f"jobs/{name}?wait=60")
        assert job["state"] == "done", job["error"]
        own = engine.generate("an apple", seed=seed).images[0].rgba
        shown = client.picture(job["pictures"][0]["layers"][0]["url"])
        assert np.abs(pixels(shown) - pixels(own)).max() <= 2
        assert job["progress"]["done"] == job["progress"]["total"] == 12


def test_both_replicas_work_at_the_same_time_and_stop_when_they_are_told_to(client):
    jobs = [client.post("generate", {"prompt": "x", "steps": 1000}, status=202)["id"] for _ in range(2)]
    until(lambda: all(client.get(f"jobs/{job}")["progress"]["done"] > 2 for job in jobs), 60)
    for job in jobs:
        client.post(f"jobs/{job}/stop")
    assert [client.get(f"jobs/{job}?wait=30")["state"] for job in jobs] == ["stopped"] * 2
    assert client.run(seed=3)["state"] == "done"


def test_the_users_mistakes_are_sentences_there_too(client):
    narrow = encode_picture(np.zeros((12, 12, 4), np.uint8))
    assert "multiples of 8" in client.post("encode", {"picture": narrow}, status=422)["detail"]
    told = client.post("encode", {"picture": encode_picture(np.asarray(picture(64, 64)))})
    answer = client.post("decode", {"latent": told["latent"]}, headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
