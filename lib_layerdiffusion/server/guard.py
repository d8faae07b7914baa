"""Who gets in: every request passes here before anything reads it.

A page in the browser of somebody who runs a server can send requests to it. So a request has to name the server by an
address of its own (no name that somebody has pointed to it, DNS rebinding), and come from no other site's page (Origin,
Sec-Fetch-Site); where the network can reach the server, from somebody who knows the password. Sizes are checked before
a body is read, and while it comes.
"""

from __future__ import annotations

import asyncio
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
_ONCE = frozenset({"host", "origin", "sec-fetch-site", "authorization", "content-length"})
"""Headers that decide; where one comes twice, the two ends of a proxy may each believe another."""

_UNREAD = frozenset({400, 408, 413, 503})
"""Answers after which a connection ends, since the rest of a body may come on it."""


@dataclass(frozen=True)
class Doors:
    """What is let in.

    host: address that is listened on. names: that the server may be called by beside its addresses. auth:
    "user:password", "" for none. body_bytes: largest body. bodies_bytes: of all requests that are being answered
    together. body_seconds: how long a part of a body may be awaited.
    """

    host: str = "127.0.0.1"
    names: frozenset[str] = frozenset()
    auth: str = field(default="", repr=False)
    body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    body_seconds: float = 30.0

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
    """ASGI middleware in front of an app. held: bytes of bodies in requests that are not answered yet."""

    def __init__(self, app: App, doors: Doors) -> None:
        self._app, self._doors = app, doors
        self.held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a status and a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        named = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        refusal = _ambiguity([name for name, _ in named]) or self._refusal(scope["method"], dict(named))
        if refusal is not None:
            await _answer(send, *refusal)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if message["status"] in _UNREAD:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in own)]
            await send(message)

        body = _Body(receive, self._doors, self)
        try:
            await self._app(scope, body.receive, with_headers)
        finally:
            self.held -= body.bytes

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
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._doors.body_bytes:
            return 413, _too_large(self._doors)
        return None


class _Body:
    """A request's body while it comes; raises what the app, which is reading, answers."""

    def __init__(self, receive: Receive, doors: Doors, guard: Guard) -> None:
        self._receive, self._doors, self._guard = receive, doors, guard
        self._is_whole = False
        self.bytes = 0

    async def receive(self) -> Message:
        """The next part; what comes behind the last one may take any time."""
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._doors.body_seconds)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, "The request stopped coming: send it again.") from error
        came = len(message.get("body", b""))
        self.bytes += came
        self._guard.held += came
        self._is_whole = not message.get("more_body", False)
        if self.bytes > self._doors.body_bytes:
            raise HTTPException(413, _too_large(self._doors))
        if self._guard.held > self._doors.bodies_bytes:
            raise HTTPException(503, "Too much is being sent at once: try again in a while.")
        return message


def _ambiguity(names: list[str]) -> tuple[int, str] | None:
    if any(names.count(name) > 1 for name in _ONCE) or {"content-length", "transfer-encoding"} <= set(names):
        return 400, "A header comes twice, or the length is said in two ways."
    return None


def _too_large(doors: Doors) -> str:
    return f"The request is larger than {doors.body_bytes >> 20} MiB: send smaller pictures."


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status in _UNREAD else []
    headers += [(b"www-authenticate", b'Basic realm="LayerDiffusion", charset="UTF-8"')] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
