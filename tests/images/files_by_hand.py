"""Files that Pillow cannot write: PNGs of every bit depth with tRNS, ICC profiles, and formats that others decode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n/Times 8 selectfont\nshowpage\n%%EOF\n"

EPS_WITH_PREVIEW = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: Sequence[Sequence[int]], width: int, depth: int, colour: int, **chunks: bytes) -> bytes:
    """values: rows of samples, as they lie in the file. chunks: more of them, by name."""
    rows = b"".join(b"\0" + packed(row, depth) for row in values)
    header = struct.pack(">IIBBBBB", width, len(values), depth, colour, 0, 0, 0)
    between = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    parts = (chunk(b"IHDR", header), between, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(row: Sequence[int], depth: int) -> bytes:
    bits = "".join(format(value, f"0{depth}b") for value in row)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def icc(primaries: Sequence[Sequence[float]], gamma: float, space: bytes = b"RGB ") -> bytes:
    """A display profile of version 2: for RGB three primaries as XYZ under D50, for grey one curve."""

    def curve() -> bytes:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = [0.9642, 1.0, 0.8249]
    text = b"text" + bytes(4) + b"none\0"
    description = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": description, b"cprt": text, b"wtpt": xyz(white)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve()
    for letter, primary in zip("rgb", primaries, strict=False):
        tags |= {f"{letter}XYZ".encode(): xyz(primary), f"{letter}TRC".encode(): curve()}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I", start + len(body)) + bytes(4) + bytes([2, 0x10, 0, 0]) + b"mntr" + space + b"XYZ "
    header += bytes(12) + b"acsp" + bytes(28) + b"".join(struct.pack(">i", round(value * 65536)) for value in white)
    return (header + bytes(128 - len(header))) + table + body


ADOBE_RGB = icc([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]], 563 / 256)
"""With the numbers of the Adobe RGB (1998) specification."""
GREY_GAMMA_1 = icc([], 1.0, b"GRAY")


def ramp(depth: int) -> np.ndarray:
    return np.arange(2**depth) * 255 // (2**depth - 1)
