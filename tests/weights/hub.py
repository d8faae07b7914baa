"""A hub of one repository on 127.0.0.1, which can break off, refuse, or speak slowly."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REPOSITORY = "/LayerDiffusion/layerdiffusion-v1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: name -> content. breaks: for each coming GET, after how many bytes it is cut. token: that is wanted.

    sent: what GET sends instead of the content. statuses: of coming GETs. status: of everything. knows_ranges: whether
    it knows ranges. pause: seconds between parts. circle: redirects to itself. names_content: whether it has an ETag.
    """

    files: dict[str, bytes]
    breaks: list[int] = field(default_factory=list)
    token: str = ""
    endpoint: str = ""
    ranges: list[int] = field(default_factory=list)
    sent: bytes | None = None
    statuses: list[int] = field(default_factory=list)
    status: int = 0
    knows_ranges: bool = True
    pause: float = 0.0
    circle: bool = False
    gzips: bool = False
    names_content: bool = True
    commit: str = COMMIT

    @property
    def downloads(self) -> int:
        return len(self.ranges)


class _Server(ThreadingHTTPServer):
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.server.hub
        path = urlsplit(self.path).path
        known = {
            f"{REPOSITORY}/resolve/{at}/{name}": held for at in ("main", COMMIT) for name, held in hub.files.items()
        }
        content = known.get(path)
        status = hub.status or (hub.statuses.pop(0) if body and hub.statuses else 0)
        if hub.circle:
            self._redirect(self.path)
        elif status:
            self._refuse(status, "Busy")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "GatedRepo")
        else:
            wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
            self._send(content, int(wanted or 0) if body else 0, body=body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, start: int, *, body: bool) -> None:
        hub = self.server.hub
        start = start if hub.knows_ranges else 0
        etag = hashlib.sha256(content).hexdigest()
        content = content if hub.sent is None or not body else hub.sent
        content = gzip.compress(content) if hub.gzips and body else content
        start = min(start, len(content))
        self.send_response(206 if start else 200)
        if hub.names_content:
            self.send_header("ETag", f'"{etag}"')
        if hub.gzips and body:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("X-Repo-Commit", hub.commit)
        if hub.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            hub.ranges.append(start)
            rest = content[start:]
            cut = hub.breaks.pop(0) if hub.breaks else len(rest)
            step = 8192 if hub.pause else max(cut, 1)
            with contextlib.suppress(ConnectionError):  # who asked has gone
                for place in range(0, cut, step):
                    self.wfile.write(rest[place : min(cut, place + step)])
                    time.sleep(hub.pause)
            self.close_connection = True


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
