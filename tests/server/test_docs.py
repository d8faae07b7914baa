"""The client of docs/server.md does what the page says, on a real socket."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.server.app import build_app
from lib_layerdiffusion.server.guard import Doors
from lib_layerdiffusion.server.routes import PREFIX
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.serving import served
from lib_layerdiffusion.server.workers import LocalWorker

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def address(engine, facts):
    with served(Service([LocalWorker(engine)], facts), Doors()) as found:
        yield found


def test_the_client_of_ten_lines(address, engine, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(ADDRESS, address), "docs/server.md", "exec"), {})
    made = np.asarray(Image.open("foreground.png"))
    assert np.array_equal(made, np.asarray(engine.generate("red apple", seed=12345).images[0].rgba))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_line_of_curl(address, tmp_path):
    (line,) = re.findall(r"```sh\n(curl .*?)\n```", PAGE, re.DOTALL)
    known = subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, check=True).stdout
    if "--json" not in known:
        line = line.replace("--json", '-H "Content-Type: application/json" -d')
    subprocess.run(["bash", "-c", line.replace(ADDRESS, address)], cwd=tmp_path, check=True, capture_output=True)
    assert Image.open(tmp_path / "apple.png").mode == "RGBA"


def test_every_route_that_there_is_is_in_the_table(client):
    paths = {
        path.removeprefix(f"{PREFIX}/").split("{")[0].strip("/")
        for path in build_app(client.service).openapi()["paths"]
    }
    for path in {path.removeprefix(f"{PREFIX}/").split("{")[0].strip("/") for path in paths}:
        assert re.search(rf"\b{re.escape(path)}\b", PAGE), path
