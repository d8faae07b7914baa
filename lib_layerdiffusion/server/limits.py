"""What a server takes and keeps, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    queue: waiting runs. body_bytes: of one request. batch: pictures of one run. tools: calls of encode and decode at
    a time, waiting ones among them. kept_seconds, kept_bytes: how long finished runs stay and how much their pictures
    take in memory together. upload_bytes: the same of pictures that were sent in. attended_seconds: after so long
    without anybody looking an attended run ends. waiting_bytes: pictures of all waiting runs as they lie in memory.
    """

    queue: int = 32
    body_bytes: int = 64 << 20
    batch: int = 16
    tools: int = 8
    kept_seconds: float = 24 * 3600.0
    kept_bytes: int = 1 << 30
    upload_bytes: int = 512 << 20
    attended_seconds: float = 60.0
    waiting_bytes: int = 2 << 30
