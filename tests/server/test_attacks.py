"""What somebody sends who wants in: raw bytes over real sockets, to a server that has its page on."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.server.routes import PREFIX
from tests.server.wire import listening, png

SECRET = b"root:x:0:0 this is nobody's business"


@pytest.fixture(scope="module")
def line(engine, facts):
    with listening(engine, facts) as made:
        yield made


# Pictures that are no pictures

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/tmp/x) (w) file pop\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><image href="file:///etc/passwd"/></svg>'


@pytest.fixture
def secret(tmp_path):
    """A file and a site with something on that nobody may get; asked: whether somebody has asked the site."""

    class Site(http.server.BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_GET(self):
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET)

        def log_message(self, *_):
            pass

    picture = tmp_path / "private.png"
    Image.fromarray(np.full((64, 64, 4), 77, np.uint8)).save(picture)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    Site.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        names = [
            f"http://127.0.0.1:{port}/secret.txt",
            f"//127.0.0.1:{port}/a.png",
            f"HTTP://127.0.0.1:{port}/a.png",
            f"ftp://127.0.0.1:{port}/a.png",
            f"url:http://127.0.0.1:{port}/a.png",
            f"file://{picture}",
            f"file:{picture}",
            str(picture),
            f"/file={picture}",
            f"../../../..{picture}",
            "/etc/passwd",
            "C:\\Windows\\win.ini",
            f"\\\\127.0.0.1@{port}\\a.png",
            f"data:image/png;base64,{base64.b64encode(EPS).decode()}",
            f"data:application/postscript;base64,{base64.b64encode(EPS).decode()}",
            f"data:image/svg+xml;base64,{base64.b64encode(SVG).decode()}",
            f"data:image/svg+xml,{SVG.decode()}",
            f"data:text/plain;base64,{base64.b64encode(SECRET).decode()}",
        ]
        yield names, picture, Site.asked
        server.shutdown()


def bodies(name):
    """Every field of every route that takes a picture."""
    given = {"prompt": "x"}
    yield from (("generate", {**given, key: name}) for key in ("init", "mask", "foreground", "background", "blended"))
    yield from (("chain", {**given, key: name}) for key in ("foreground", "background"))
    yield "compose", {"foreground": name, "background": png()}
    yield "compose", {"foreground": png(), "background": name}
    yield "trim", {"picture": name}
    yield "encode", {"picture": name}
    yield "layers", {"layers": [{"picture": name}]}
    yield "decode", {"latent": name}
    yield "decode", {"latent": base64.b64encode(b"x" * 64).decode(), "picture": name}


def test_no_address_and_no_path_is_opened(line, secret):
    names, picture, asked = secret
    shapes = [*names, *({"path": name} for name in names), {"url": names[0]}, {"image": str(picture)}, [str(picture)]]
    shapes += [{"path": str(picture), "meta": {"_type": "gradio.FileData"}}, {"name": str(picture), "is_file": True}]
    read_at = picture.stat().st_atime_ns
    for shape in shapes:
        for path, body in bodies(shape):
            status, answer = line.post(path, body)
            assert status in {404, 422}, (path, body, answer[:300])
            assert SECRET[:16] not in answer
    assert asked == []
    assert picture.stat().st_atime_ns == read_at


@pytest.mark.parametrize(
    "content", [EPS, SVG, SECRET, b"P6 64 64 255\n", b"\0" * 100], ids=["eps", "svg", "text", "ppm", "0"]
)
def test_no_upload_of_another_kind_is_opened(line, content):
    status, answer = line.post("pictures", content, kind="image/png")
    assert status == 422
    assert json.loads(answer)["detail"].count("\n") == 0


# Places of files

PATHS = [
    "/../guard.py",
    "/../../../../../../etc/passwd",
    "/%2e%2e/guard.py",
    "/%2e%2e%2f%2e%2e%2fguard.py",
    "/..%5cguard.py",
    "/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/....//....//guard.py",
    "//etc/passwd",
    "/%2fetc/passwd",
    "///etc/passwd",
    "/file=/etc/passwd",
    "/file%3D/etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/proxy=http://127.0.0.1:1/",
    "/component_server",
    "/queue/join",
    "/upload",
    "/a%00.png",
    "/%00",
    "/%ff%fe",
    f"/{'a' * 5000}",
    f"/{'a/' * 2000}",
    f"{PREFIX}/translations/..%2f..%2fpyproject",
    f"{PREFIX}/translations/%2e%2e",
    f"{PREFIX}/pictures/..%2f..%2fetc%2fpasswd",
    f"{PREFIX}/pictures/%00",
    f"{PREFIX}/jobs/%00",
    f"{PREFIX}/jobs/..%2f/0.ora",
    f"{PREFIX}/jobs/x/99999999999999999999.ora",
    f"{PREFIX}/jobs/x/0.exe",
    f"{PREFIX}/pictures/x?margin=99999999999999999999999&trim=1",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_file_is_given_out_but_the_pages(line, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        status, answer = line.get(path, method=method)
        assert 400 <= status < 500, (method, status, answer[:200])
        assert b"root:" not in answer
        assert b"from __future__" not in answer


def test_a_whole_address_in_the_request_line_leads_nowhere(line):
    status, answer = line.get("http://evil.example/secret")
    assert 400 <= status < 500
    assert b"secret" not in answer
    assert line.get("http://evil.example/", host="evil.example")[0] == 421


# Headers

TWICE = ["Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: cross-site"]


@pytest.mark.parametrize("extra", TWICE)
@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_comes_twice_hides_nothing(line, extra, first):
    """Which of the two counts is a question that a proxy and a server may answer differently."""
    name = extra.partition(":")[0]
    own = {"Host": f"127.0.0.1:{line.port}", "Origin": f"http://127.0.0.1:{line.port}", "Sec-Fetch-Site": "same-origin"}
    pair = [extra, f"{name}: {own[name]}"] if first else [f"{name}: {own[name]}", extra]
    lines = [f"POST {PREFIX}/stop HTTP/1.1", *pair, "Content-Length: 14", "Content-Type: application/json"]
    lines += [] if name == "Host" else [f"Host: {own['Host']}"]
    status, _ = line("\r\n".join([*lines, "Connection: close", "", ""]).encode() + b'{"client":"x"}')
    assert status in {400, 403, 421}


def test_two_logins_are_none(engine, facts):
    right = base64.b64encode(b"me:secret").decode()
    with listening(engine, facts, auth="me:secret") as closed:
        one = f"Authorization: Basic {right}"
        assert closed.get("/", one)[0] == 200
        assert closed.get("/", one, "Authorization: Basic xxxx")[0] in {400, 401}
        assert closed.get("/", "Authorization: Basic xxxx", one)[0] in {400, 401}


SMUGGLED = f"GET {PREFIX}/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 0\r\nContent-Length: 60\r\n",
        b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: +60\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b" X: y\r\n",
        b"X: y\rHost: evil.example\r\n",
    ],
)
def test_no_request_hides_in_another(line, framing):
    head = f"POST {PREFIX}/stop HTTP/1.1\r\nHost: 127.0.0.1:{line.port}\r\n".encode()
    body = b"0\r\n\r\n" + SMUGGLED
    status, answer = line(head + framing + b"\r\n" + body)
    assert 400 <= status < 500
    assert b"HTTP/1.1 200" not in answer


def test_a_rebound_name_gets_nothing_from_any_route(line):
    paths = ["/", "/index.html", f"{PREFIX}/model", f"{PREFIX}/openapi.json", f"{PREFIX}/jobs?client=x", "/nothing"]
    for path in paths:
        for host in ("evil.example", f"evil.example:{line.port}", "127.0.0.1.evil.example", "evil.example@127.0.0.1"):
            assert line.get(path, host=host)[0] == 421
    status, _ = line(b"GET / HTTP/1.0\r\n\r\n")
    assert status in {400, 421}


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "https://127.0.0.1", "file://", "chrome-extension://x"]
)
def test_another_sites_page_gets_nothing_and_starts_nothing(line, origin):
    for path, body in (("generate", {"prompt": "x"}), ("stop", {"client": "x"}), ("trim", {"picture": png()})):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert line.post(path, body, f"Origin: {origin}", kind=kind)[0] == 403
    preflight = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
    status, answer = line.get(f"{PREFIX}/generate", f"Origin: {origin}", *preflight, method="OPTIONS")
    assert status == 403
    assert b"access-control-allow" not in answer.lower()
    assert line.service.board.counts() == (0, 0)


def test_a_web_socket_is_not_opened(line):
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    for path in ("/", "/queue/join", f"{PREFIX}/generate"):
        with line.open() as wire:
            lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{line.port}", "Connection: Upgrade", *upgrade, "", ""]
            wire.sendall("\r\n".join(lines).encode())
            first = wire.recv(100).split()[1]
        assert first in {b"200", b"404", b"405"} if path == "/" else first in {b"404", b"405"}


# Runs and pictures of others


def test_nothing_of_somebody_elses_run_is_told(line):
    status, answer = line.post("generate", {"prompt": "a private wish", "client": "alice"})
    assert status == 202
    job = json.loads(answer)
    assert len(job["id"]) == 32  # 128 bits that nobody guesses
    for path in (f"{PREFIX}/jobs", f"{PREFIX}/jobs?client=", f"{PREFIX}/jobs?client=bob", f"{PREFIX}/jobs?client=*"):
        assert b"private" not in line.get(path)[1]
    for path in (f"{PREFIX}/status", f"{PREFIX}/model"):
        told = line.get(path)[1]
        assert job["id"].encode() not in told
        assert b"private" not in told
    other = f"{int(job['id'], 16) ^ 1:032x}"
    for path in ("", "/events", "/files.zip", "/0.ora"):
        assert line.get(f"{PREFIX}/jobs/{other}{path}")[0] == 404
    assert line.post(f"jobs/{other}/stop", {})[0] == 404
    assert line.get(f"{PREFIX}/pictures/{other}-0-foreground")[0] == 404
    assert line.post("trim", {"picture": f"{other}-0-foreground"})[0] == 404
    assert json.loads(line.post("stop", {"client": "bob"})[1])["stopped"] == 0
    assert b"private" in line.get(f"{PREFIX}/jobs/{job['id']}?wait=30")[1]
