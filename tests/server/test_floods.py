"""Too much and too slow: what one sender takes must not be missing for the others."""

from __future__ import annotations

import base64
import contextlib
import io
import time

import pytest
from PIL import Image

from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.routes import PREFIX
from tests.server.wire import Line, listening


@pytest.fixture(scope="module")
def line(engine, facts):
    with listening(engine, facts) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(engine, facts):
    """One mebibyte a request, and a second for each part of it."""
    with listening(engine, facts, body_bytes=1 << 20, body_seconds=1.0, bodies_bytes=4 << 20) as made:
        yield made


def test_a_body_that_stops_coming_is_let_go_of(narrow):
    with narrow.open() as wire:
        wire.sendall(f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxx".encode())
        status, answer = Line.answer(wire)
    assert status == 408
    assert b"stopped coming" in answer


def test_slow_senders_keep_nobody_waiting(narrow):
    with contextlib.ExitStack() as wires:
        for _ in range(100):
            wire = wires.enter_context(narrow.open())
            wire.sendall(f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9".encode())
        began = time.monotonic()
        assert narrow.get(f"{PREFIX}/status")[0] == 200
        assert time.monotonic() - began < 10


def test_headers_without_end_are_cut_off(narrow):
    with narrow.open() as wire, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(2000):
            wire.sendall(f"X-{number}: {'y' * 1000}\r\n".encode())
        status, _ = Line.answer(wire)
        assert status in {0, 400, 431}
    assert narrow.get(f"{PREFIX}/status")[0] == 200


def test_bodies_that_wait_together_have_a_limit(narrow):
    """Five of them, of which each is allowed, each of a mebibyte but its last byte."""
    size = 1 << 20
    with contextlib.ExitStack() as wires:
        answers = []
        for _ in range(8):
            wire = wires.enter_context(narrow.open())
            head = f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.sendall(head.encode() + b"x" * (size - 1))
            answers.append(wire)
        statuses = [Line.answer(wire)[0] for wire in answers]
    assert 503 in statuses
    assert 408 in statuses
    assert narrow.post("pictures", b"x")[0] == 422


def test_a_small_file_of_a_large_picture_is_refused(line):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    for path, body in (
        ("pictures", buffer.getvalue()),
        ("trim", {"picture": base64.b64encode(buffer.getvalue()).decode()}),
    ):
        status, answer = line.post(path, body)
        assert status == 422
        assert b"pixels" in answer or b"megapixels" in answer


def test_pictures_that_wait_in_the_queue_have_a_limit(held):
    """A file of some kilobytes becomes 64 MiB in memory."""
    buffer = io.BytesIO()
    Image.new("RGBA", (2048, 2048)).save(buffer, "PNG")
    client, _ = held(Limits(waiting_bytes=40 << 20))
    name = client.post("pictures", content=buffer.getvalue())["name"]
    body = {"prompt": "x", "init": name, "width": 64, "height": 64}
    statuses = [client.http.post(f"{PREFIX}/generate", json=body).status_code for _ in range(5)]
    assert statuses[:2] == [202, 202]
    assert statuses[-1] == 429
