"""What a request's headers and a picture's infotext may say: anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_layerdiffusion.server.guard import Doors, Guard
from lib_layerdiffusion.server.restore import restored_request

WORDS = [
    "127.0.0.1",
    "localhost",
    "evil.example",
    "null",
    "http://",
    "[",
    "]",
    "::1",
    ":",
    "@",
    "%",
    "\x00",
    "Basic ",
    "=",
]
VALUES = st.lists(st.sampled_from(WORDS) | st.text(st.characters(max_codepoint=255), max_size=6), max_size=5).map(
    "".join
)
NAMES = st.sampled_from(
    ["host", "origin", "sec-fetch-site", "authorization", "content-length", "transfer-encoding", "x"]
)


def answered(doors: Doors, headers: list[tuple[str, str]]) -> int:
    """The status that a guard gives; 200 comes from behind it."""
    statuses: list[int] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        statuses.append(message.get("status", 0))

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    request = Guard(app, doors)({"type": "http", "method": "POST", "headers": raw}, receive, send)
    # Nothing here waits for anything. No event loop, since a browser that drives the pages keeps one in this thread.
    with pytest.raises(StopIteration):
        request.send(None)
    return statuses[0]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_only_a_request_that_names_the_server_and_no_other_site_gets_in(headers):
    status = answered(Doors(), headers)
    assert status in {200, 400, 403, 413, 421}
    if status == 200:
        given_once = dict(headers)
        name = given_once["host"].lower()
        assert name.startswith(("127.0.0.1", "localhost", "[::1"))
        assert given_once.get("origin", f"x://{name}").lower().endswith(f"://{name}")


@given(st.lists(st.tuples(st.just("authorization"), VALUES), max_size=2))
def test_no_login_but_the_right_one_is_let_in(headers):
    assert answered(Doors(auth="me:secret"), [("host", "127.0.0.1"), *headers]) in {400, 401}


PARTS = [
    *(
        "Steps: 20",
        ", ",
        "Size: 64x",
        "99999999999999999999",
        "Seed: ",
        "-1",
        "nan",
        "\n",
        "Negative prompt: ",
        '"',
        "{",
    ),
    *(
        "LayerDiffusion: True",
        "LayerDiffusion method: ",
        "CFG scale: ",
        "Sampler: Euler",
        "Denoising strength: 7",
        "\x00",
    ),
]


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=12).map("".join))
def test_any_infotext_is_a_request_or_none(facts, text):
    request, ignored = restored_request(text, facts)
    assert request is None or isinstance(request, dict)
    assert all("\n" not in sentence for sentence in ignored)
