"""A server on a socket, and somebody who sends it bytes as they are."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lib_layerdiffusion.server.app import WEB
from lib_layerdiffusion.server.guard import Doors
from lib_layerdiffusion.server.routes import PREFIX
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.serving import served
from lib_layerdiffusion.server.workers import LocalWorker


@contextlib.contextmanager
def listening(engine, facts, **doors):
    service = Service([LocalWorker(engine)], facts, web=WEB)
    with served(service, Doors(**doors)) as address:
        place = urlsplit(address)
        yield Line(place.hostname, place.port, service)


class Line:
    """Sends bytes as they are."""

    def __init__(self, host, port, service):
        self.host, self.port, self.service = host, port, service

    def open(self):
        return socket.create_connection((self.host, self.port), timeout=30)

    def __call__(self, sent: bytes) -> tuple[int, bytes]:
        """Status, and everything that came behind the status line."""
        with self.open() as line:
            line.sendall(sent)
            return self.answer(line)

    @staticmethod
    def answer(line) -> tuple[int, bytes]:
        content = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(1 << 16):
                content += piece
        first, _, rest = content.partition(b"\r\n")
        return (int(first.split()[1]) if first else 0), rest

    def get(self, path, *headers, method="GET", host=None):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{self.port}'}", *headers]
        return self(("\r\n".join([*lines, "Connection: close", "", ""])).encode("latin-1"))

    def post(self, path, body, *headers, kind="application/json"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"POST {PREFIX}/{path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(content)}"]
        lines += [f"Content-Type: {kind}", "Connection: close", *headers, "", ""]
        status, rest = self("\r\n".join(lines).encode() + content)
        return status, rest.partition(b"\r\n\r\n")[2]


def png(side=64) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 4), 128, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
