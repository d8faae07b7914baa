"""Too much and too slow: what one sender takes must not be missing for the others."""

from __future__ import annotations

import base64
import contextlib
import io
import select
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
def hurried(engine, facts):
    """A second for each part of a body."""
    with listening(engine, facts, body_seconds=1.0) as made:
        yield made


def test_a_body_that_stops_coming_is_let_go_of(hurried):
    with hurried.open() as wire:
        wire.sendall(f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxx".encode())
        status, answer = Line.answer(wire)
    assert status == 408
    assert b"stopped coming" in answer


def test_slow_senders_keep_nobody_waiting(hurried):
    with contextlib.ExitStack() as wires:
        for _ in range(100):
            wire = wires.enter_context(hurried.open())
            wire.sendall(f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9".encode())
        began = time.monotonic()
        assert hurried.get(f"{PREFIX}/status")[0] == 200
        assert time.monotonic() - began < 10


def test_headers_without_end_are_cut_off(hurried):
    with hurried.open() as wire, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(2000):
            wire.sendall(f"X-{number}: {'y' * 1000}\r\n".encode())
        status, _ = Line.answer(wire)
        assert status in {0, 400, 431}
    assert hurried.get(f"{PREFIX}/status")[0] == 200


def test_bodies_that_wait_together_have_a_limit(engine, facts):
    """Each of them is allowed, and each is whole but for its last byte."""
    size = 1 << 20
    head = f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    with listening(engine, facts, body_bytes=size, bodies_bytes=4 * size) as line:
        with contextlib.ExitStack() as open_ones:
            wires = [open_ones.enter_context(line.open()) for _ in range(8)]
            for wire in wires:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    wire.sendall(head + b"x" * (size - 1))
            answered, _, _ = select.select(wires, [], [], 25)
            assert Line.answer(answered[0])[0] == 503
        assert line.post("pictures", b"x")[0] == 422  # those that went away hold nothing any more


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
