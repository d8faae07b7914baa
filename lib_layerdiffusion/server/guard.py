"""Who gets in: every request passes here before anything reads it.

A page in the browser of somebody who runs a server can send requests to it. So a request has to name the server by an
address of its own (no name that somebody has pointed to it, DNS rebinding), and come from no other site's page (Origin,
Sec-Fetch-Site); where the network can reach the server, from somebody who knows the password. Sizes are checked before
a body is read, and while it comes.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Doors:
    """What is let in.

    host: address that is listened on. names: that the server may be called by beside its addresses. auth:
    "user:password", "" for none. body_bytes: largest body.
    """

    host: str = "127.0.0.1"
    names: frozenset[str] = frozenset()
    auth: str = field(default="", repr=False)
    body_bytes: int = 64 << 20

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_local(self.host)

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host_name(host)
        if name in LOCAL_NAMES or name in self.names or name == self.host.lower():
            return True
        # A bare address cannot be a name that somebody else has pointed here.
        return not self.is_local and (_is_address(name) or name == socket.gethostname().lower())

    def lets_in(self, authorization: str) -> bool:
        """Whether an Authorization header has the right login, compared in constant time."""
        kind, _, encoded = authorization.partition(" ")
        if not self.auth:
            return True
        try:
            given = base64.b64decode(encoded, validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        return secrets.compare_digest(given, self.auth.encode())


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """The name in a Host header, without its port and an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware in front of an app."""

    def __init__(self, app: App, doors: Doors) -> None:
        self._app, self._doors = app, doors

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a status and a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in own)]
            await send(message)

        await self._app(scope, self._counted(receive), with_headers)

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence for what is not let in."""
        host = headers.get("host", "")
        if not self._doors.knows(host):
            return 421, "This server is not called so: use its address, or start it with --allow-host NAME."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Requests from other sites' pages are refused."
        if headers.get("sec-fetch-site", "none") in {"cross-site", "same-site"} and method not in _SAFE:
            return 403, "Requests from other sites' pages are refused."
        if not self._doors.lets_in(headers.get("authorization", "")):
            return 401, "This server asks for a login: send the user and password that it was started with."
        if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > self._limit:
            return 413, self._too_large
        return None

    @property
    def _limit(self) -> int:
        return self._doors.body_bytes

    @property
    def _too_large(self) -> str:
        return f"The request is larger than {self._limit >> 20} MiB: send smaller pictures."

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that stops where a body of unknown length gets too long."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._limit:
                raise HTTPException(413, self._too_large)  # answered by the app, which is reading
            return message

        return counted


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status == 413 else []
    headers += [(b"www-authenticate", b'Basic realm="LayerDiffusion", charset="UTF-8"')] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
