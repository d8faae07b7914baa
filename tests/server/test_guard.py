"""Who gets in, and what a server listens to: on real sockets."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lib_layerdiffusion.errors import HostError, SettingsError
from lib_layerdiffusion.server.guard import Doors, host_name, is_local
from lib_layerdiffusion.server.routes import PREFIX
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.serving import doors_of, served
from lib_layerdiffusion.server.workers import LocalWorker

ROOT = Path(__file__).parents[2]
STATUS = f"{PREFIX}/status"
LOGIN = {"Authorization": "Basic " + base64.b64encode("me:secret wörd".encode()).decode()}


@contextmanager
def server(engine, facts, **doors):
    with served(Service([LocalWorker(engine)], facts), Doors(**doors)) as address:
        yield Asking(address)


class Asking:
    def __init__(self, address: str) -> None:
        self.place = urlsplit(address)

    def __call__(self, method="GET", path=STATUS, body=None, **headers):
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def status(self, *args, **headers):
        return self(*args, **headers)[0].status


@pytest.fixture(scope="module")
def ask(engine, facts):
    with server(engine, facts) as asking:
        yield asking


@pytest.fixture(scope="module")
def closed(engine, facts):
    with server(engine, facts, auth="me:secret wörd") as asking:
        yield asking


@pytest.fixture(scope="module")
def small(engine, facts):
    with server(engine, facts, body_bytes=1 << 20) as asking:
        yield asking


class TestNames:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:1", "[::1]:80", "localhost."])
    def test_this_machine_is_let_in(self, ask, host):
        assert ask.status(Host=host) == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""]
    )
    def test_names_that_somebody_pointed_here_are_not(self, ask, host):
        answer, body = ask(Host=host)
        assert answer.status == 421
        assert "--allow-host" in json.loads(body)["detail"]

    def test_a_name_can_be_allowed(self, engine, facts):
        with server(engine, facts, names=frozenset({"studio.lan"})) as named:
            assert named.status(Host="Studio.lan:7860") == 200

    def test_in_the_network_addresses_are_and_names_are_not(self):
        doors = Doors("0.0.0.0", auth="a:b")
        assert doors.knows("192.168.1.7:7860")
        assert doors.knows("[fd00::1]:7860")
        assert not doors.knows("evil.example:7860")

    def test_the_parts_of_a_host_header(self):
        assert [host_name(host) for host in ("[::1]:5", "A.b:1", "::1")] == ["::1", "a.b", ""]
        assert [is_local(host) for host in ("127.0.0.9", "::1", "localhost", "0.0.0.0", "box")] == [
            *[True] * 3,
            *[False] * 2,
        ]


class TestOrigins:
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://", "http://"])
    def test_other_sites_pages_are_refused(self, ask, origin):
        host = f"127.0.0.1:{ask.place.port}"
        assert ask.status("POST", f"{PREFIX}/stop", b'{"client":"x"}', Host=host, Origin=origin) == 403
        assert ask.status(Host=host, Origin=origin) == 403

    def test_its_own_page_is_not(self, ask):
        host = f"127.0.0.1:{ask.place.port}"
        headers = {"Content-Type": "application/json", "Host": host, "Origin": f"http://{host}"}
        assert ask.status("POST", f"{PREFIX}/stop", b'{"client":"x"}', **headers) == 200

    def test_a_browser_that_says_that_the_request_is_another_sites(self, ask):
        assert ask.status("POST", f"{PREFIX}/stop", b"{}", Sec_Fetch_Site="cross-site") == 403

    def test_no_answer_can_be_framed_sniffed_or_read_by_others(self, ask):
        answer, _ = ask()
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


class TestLogin:
    @pytest.mark.parametrize("path", ["/", STATUS, f"{PREFIX}/openapi.json", "/nothing"])
    def test_nothing_is_open_without_it(self, closed, path):
        answer, _ = closed("GET", path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic")

    @pytest.mark.parametrize("given", ["Basic", "Basic !!!", "Bearer x", "Basic " + base64.b64encode(b"me:x").decode()])
    def test_wrong_ones_are_refused(self, closed, given):
        assert closed.status(Authorization=given) == 401

    def test_the_right_one_is_let_in(self, closed):
        assert closed.status(**LOGIN) == 200

    def test_the_network_needs_one(self):
        for host in ("0.0.0.0", "::", "192.168.1.2"):
            with pytest.raises(SettingsError, match="--auth user:password"):
                doors_of(host, "", frozenset(), 1)
        assert doors_of("0.0.0.0", "a:b:c", frozenset(), 1).auth == "a:b:c"
        assert "b:c" not in repr(doors_of("0.0.0.0", "a:b:c", frozenset(), 1))
        for auth in ("me", "me:", ":secret"):
            with pytest.raises(SettingsError, match="user:password"):
                doors_of("127.0.0.1", auth, frozenset(), 1)


class TestSizes:
    def test_a_body_that_says_that_it_is_too_large_is_not_read(self, small):
        with socket.create_connection((small.place.hostname, small.place.port), timeout=10) as line:
            line.sendall(
                f"POST {PREFIX}/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n".encode()
            )
            assert b" 413 " in line.recv(1000).splitlines()[0]

    def test_a_body_of_no_length_is_cut_off(self, small):
        def pieces():
            for _ in range(40):
                yield b"x" * 100_000

        connection = http.client.HTTPConnection(small.place.hostname, small.place.port, timeout=20)
        try:
            connection.request("POST", f"{PREFIX}/pictures", pieces(), {"Host": "localhost"}, encode_chunked=True)
            assert connection.getresponse().status == 413
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server hung up before all was sent
        assert small.status() == 200

    def test_what_fits_is_read(self, small):
        answer, body = small("POST", f"{PREFIX}/pictures", b"x" * 1_000_000)
        assert answer.status == 422
        assert "cannot be read" in json.loads(body)["detail"]


class TestListening:
    def test_a_taken_port_is_said(self, engine, facts, ask):
        service = Service([LocalWorker(engine)], facts)
        with pytest.raises(HostError, match="--port"), served(service, Doors(), ask.place.port):
            pass

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_when_it_is_told_to_and_leaves_nothing_behind(self, tmp_path, end):
        places = {"TMPDIR": str(tmp_path), "HOME": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": "/nonexistent"}
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **places}
        command = [sys.executable, "-m", "lib_layerdiffusion", "serve", "--port", "0"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            said = process.stdout.readline()
            asking = Asking(said.split(" is at ")[1].split()[0])
            body = json.dumps({"prompt": "red apple", "steps": 500})
            answer, content = asking("POST", f"{PREFIX}/generate", body, Content_Type="application/json")
            assert answer.status == 202
            time.sleep(1)
            process.send_signal(end)
            assert process.wait(timeout=30) == 0
        # An empty folder of torch's is none of ours.
        assert [path for path in tmp_path.rglob("*") if path.is_file() or "layerdiffusion" in path.name] == []
        assert json.loads(content)["state"] in {"queued", "running"}
