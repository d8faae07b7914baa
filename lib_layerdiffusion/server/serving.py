"""Listening: a service on an address, until it is told to end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from lib_layerdiffusion.errors import HostError, SettingsError
from lib_layerdiffusion.server.app import guarded
from lib_layerdiffusion.server.guard import Doors, is_local
from lib_layerdiffusion.server.service import Service

LOCAL = "127.0.0.1"
_FAREWELL = 3
"""Seconds that open streams have to end when the server does."""


def doors_of(host: str, auth: str, names: frozenset[str], body_bytes: int) -> Doors:
    """Who gets in on an address.

    Raises:
        SettingsError: the network can reach the address and there is no login, or the login is none.
    """
    if auth and not all(auth.partition(":")[::2]):
        raise SettingsError("A login is a user and a password with a colon between them: --auth user:password.")
    if not auth and not is_local(host):
        raise SettingsError(f"Everybody in the network can reach {host}: give --auth user:password with it.")
    return Doors(host, frozenset(name.lower() for name in names), auth, body_bytes)


def serve(service: Service, doors: Doors, port: int, announce: Callable[[str], object] | None = None) -> None:
    """Serve until Ctrl+C or SIGTERM. announce: is told the address when it is listened on.

    Raises:
        HostError: nothing can listen there.
    """
    with _listening(doors.host, port) as listener:
        server = _server(service, doors)
        if announce is not None:
            threading.Thread(target=_announce, args=(server, listener, announce), daemon=True).start()
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            service.board.close()


@contextmanager
def served(service: Service, doors: Doors, port: int = 0) -> Generator[str, None, None]:
    """The server's address for the time of a `with`; port 0 takes a free one.

    Raises:
        HostError: nothing can listen there.
    """
    with _listening(doors.host, port) as listener:
        server = _server(service, doors)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield _address(listener)
        finally:
            server.should_exit = True
            service.board.close()
            thread.join(timeout=2 * _FAREWELL)


def _server(service: Service, doors: Doors) -> uvicorn.Server:
    config = uvicorn.Config(
        guarded(service, doors),  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_FAREWELL,
        h11_max_incomplete_event_size=64 << 10,
    )
    return uvicorn.Server(config)


@contextmanager
def _listening(host: str, port: int) -> Generator[socket.socket, None, None]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        raise HostError(f"Nothing can listen on {host}:{port}: give another --port or --host.") from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = LOCAL if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not listened on
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _announce(server: uvicorn.Server, listener: socket.socket, announce: Callable[[str], object]) -> None:
    while not server.started:
        time.sleep(0.02)
    announce(_address(listener))
