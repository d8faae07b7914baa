"""Many people at once on one server, over real sockets, with the bundled family."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lib_layerdiffusion.server.routes import PREFIX
from tests.faults.found import ROOT, Found, resident, slope
from tests.tiny_family import picture

USERS, SECONDS = 50, 180.0
CHEAP = ("status", "methods", "schema", "request-schema", "jobs?client=somebody", "openapi.json")
SIZE = 128


def _text(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _wishes() -> list[tuple[str, dict[str, Any]]]:
    """Route and body of runs whose pictures have to be the same whenever they are asked for."""
    clear, opaque = _text(picture(SIZE, SIZE, 1)), _text(picture(SIZE, SIZE, 2).convert("RGB"))
    runs: list[tuple[str, dict[str, Any]]] = [
        ("generate", {"prompt": prompt, "seed": seed, "steps": steps})
        for prompt, seed, steps in (("red apple", 1, 3), ("blue ball", 2**53 + 1, 2), ("tree", 7, 4), ("cat", 8, 2))
    ]
    runs += [
        ("generate", {"prompt": "dog", "seed": 3, "steps": 3, "init": clear, "strength": 0.8}),
        ("generate", {"prompt": "bird", "seed": 4, "steps": 2, "method": "bg-to-fg", "background": opaque}),
        ("generate", {"prompt": "fish", "seed": 5, "steps": 2, "batch": 2, "rgb_and_mask": True}),
        ("generate", {"prompt": "house", "seed": 6, "steps": 2, "method": "everything"}),
        ("chain", {"prompt": "cup", "scene": "grass", "seed": 9, "steps": 2, "background": opaque}),
    ]
    return runs


@dataclass
class Counts:
    """What all users saw together. busy: refusals for a full queue. times: seconds, by what was asked."""

    found: Found
    pictures: dict[int, str] = field(default_factory=dict)
    done: int = 0
    stopped: int = 0
    busy: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    cheap: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lose(self, what: str) -> None:
        with self.lock:
            self.found.lost += 1
            self.found.notes.append(what[:300])

    def compare(self, wish: int, content: bytes) -> None:
        """The first picture of a wish is what all others have to be."""
        digest = hashlib.sha256(content).hexdigest()
        with self.lock:
            self.found.wrong += self.pictures.setdefault(wish, digest) != digest


class User:
    """Asks for pictures and for what there is, as a page does; now and then stops a run or goes away."""

    def __init__(self, number: int, address: str, until: float, counts: Counts) -> None:
        self.place, self.until, self.counts = urlsplit(address), until, counts
        self.client, self.dice, self.wishes = f"user-{number}", random.Random(number), _wishes()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(str(self.place.hostname), self.place.port, timeout=90)
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, f"{PREFIX}/{path}", sent, {"Content-Type": "application/json"} if sent else {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        with self.counts.lock:
            self.counts.statuses[answer.status] += 1
        return answer.status, content

    def run(self) -> None:
        while time.monotonic() < self.until:
            self._visit()

    def _visit(self) -> None:
        try:
            self._look_around()
            self._wish()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.counts.lose(f"{self.client}: {type(error).__name__}: {error}")

    def _look_around(self) -> None:
        began = time.monotonic()
        status, _ = self.ask("GET", self.dice.choice(CHEAP))
        took = time.monotonic() - began
        with self.counts.lock:
            self.counts.cheap.append(took)
            self.counts.found.wrong += status != 200
        time.sleep(self.dice.random() / 2)

    def _wish(self) -> None:
        number = self.dice.randrange(len(self.wishes))
        path, body = self.wishes[number]
        status, content = self.ask("POST", path, {**body, "client": self.client, "attended": True})
        if status == 429:
            with self.counts.lock:
                self.counts.busy += 1
            time.sleep(1 + self.dice.random())
            return
        if status != 202:
            self.counts.lose(f"{path} answered {status}: {content[:200]!r}")
            return
        with self.counts.lock:
            self.counts.found.tried += 1
        job, began = json.loads(content), time.monotonic()
        if self.dice.random() < 0.1:
            self._stop(job)
            return
        if self.dice.random() < 0.1:
            self._go_away(job)
        self._take(job, number, began)

    def _stop(self, job: dict[str, Any]) -> None:
        time.sleep(self.dice.random())
        self.ask("POST", f"jobs/{job['id']}/stop", {})
        state = self._ended(job)["state"]
        with self.counts.lock:
            self.counts.stopped += 1
            self.counts.found.wrong += state not in {"stopped", "done"}

    def _go_away(self, job: dict[str, Any]) -> None:
        """From the stream of events, in the middle."""
        connection = http.client.HTTPConnection(str(self.place.hostname), self.place.port, timeout=90)
        connection.request("GET", f"{PREFIX}/jobs/{job['id']}/events")
        connection.getresponse().read(20)
        connection.close()

    def _ended(self, job: dict[str, Any]) -> dict[str, Any]:
        while True:
            status, content = self.ask("GET", f"jobs/{job['id']}?wait=20")
            if status != 200:
                return {"state": f"answered {status}"}
            told = json.loads(content)
            if told["state"] not in {"queued", "running"}:
                return told

    def _take(self, job: dict[str, Any], number: int, began: float) -> None:
        told = self._ended(job)
        if told["state"] != "done":
            self.counts.lose(f"a run ended as {told['state']}: {told.get('error')}")
            return
        asked = self.wishes[number][1]
        with self.counts.lock:
            self.counts.done += 1
            self.counts.runs.append(time.monotonic() - began)
            self.counts.found.wrong += (told["seed"], told["request"]["prompt"]) != (
                str(asked["seed"]),
                asked["prompt"],
            )
        content = b""
        for made in told["pictures"]:
            for layer in made["layers"]:
                status, png = self.ask("GET", layer["url"].removeprefix(f"{PREFIX}/"))
                if status != 200:
                    self.counts.lose(f"{layer['url']} answered {status}")
                    return
                with Image.open(io.BytesIO(png)) as image:
                    content += f"{image.mode} {image.size}".encode() + image.tobytes()
        self.counts.compare(number, content)
        self.ask("DELETE", f"jobs/{job['id']}")  # what is kept for a day would hide what is never let go of


@contextmanager
def _server(log: Path) -> Iterator[tuple[str, int]]:
    """Address and process of `layerdiffusion serve`; ends as on Ctrl+C."""
    command = [sys.executable, "-m", "lib_layerdiffusion", "serve", "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" is at ")[1].split()[0], process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def many_users(folder: Path, scale: float) -> Found:
    """50 people at once on one server: real pictures over real sockets, some stop their runs or go away."""
    found = Found()
    counts, memory, seconds = Counts(found), list[float](), SECONDS * scale
    with _server(folder / "log") as (address, process):
        until = time.monotonic() + seconds
        users = [
            threading.Thread(target=User(number, address, until, counts).run, daemon=True) for number in range(USERS)
        ]
        for user in users:
            user.start()
        while any(user.is_alive() for user in users):
            time.sleep(1)
            with contextlib.suppress(OSError):
                memory.append(resident(process))
    log = (folder / "log").read_text()
    found.wrong += counts.statuses[500] + log.count("Traceback")
    told = {
        "runs done": counts.done,
        "stopped by their users": counts.stopped,
        "refusals while the queue was full": counts.busy,
        "cheap routes, ms, median and 95th percentile": (_share(counts.cheap, 50), _share(counts.cheap, 95)),
        "a run, ms, median and 95th percentile": (_share(counts.runs, 50), _share(counts.runs, 95)),
        "MiB in the end": round(max(memory, default=0)),
        "MiB a minute": round(slope(memory) * 60, 1),
    }
    found.notes.append(
        f"{USERS} users, {seconds:.0f} s: {'; '.join(f'{what}: {value}' for what, value in told.items())}"
    )
    return found


def _share(values: list[float], percent: float) -> int:
    """A percentile in milliseconds."""
    return round(float(np.percentile(values, percent)) * 1000) if values else 0
