"""PNGs whose chunks are right to the last checksum and whose content is anything."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_layerdiffusion.images.reading import read_picture
from tests.sentences import result_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = [b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT"]
KINDS += [b"sBIT", b"bKGD", b"pHYs", b"caBX", b"IEND", b"abcd"]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int, colour: int, interlace: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


HEADERS = st.builds(
    header,
    st.sampled_from([0, 1, 7, 64, 2**16, 2**31]),
    st.sampled_from([0, 1, 7, 64, 2**16, 2**31]),
    st.sampled_from([1, 2, 4, 8, 16, 3]),
    st.sampled_from([0, 2, 3, 4, 6, 9]),
    st.sampled_from([0, 1]),
)
CHUNKS = st.builds(chunk, st.sampled_from(KINDS), st.binary(max_size=60) | st.binary(max_size=400).map(zlib.compress))
BODIES = st.integers(0, 20_000).map(lambda size: chunk(b"IDAT", zlib.compress(bytes(size))))


@pytest.mark.filterwarnings("ignore")
@given(HEADERS, st.lists(CHUNKS, max_size=4), BODIES, st.lists(CHUNKS, max_size=2))
def test_any_chunks_are_a_picture_or_a_sentence(first, before, body, behind):
    content = SIGNATURE + first + b"".join([*before, body, *behind]) + chunk(b"IEND", b"")
    made = result_of(read_picture, content, "init")
    assert made is None or (made.dtype == np.uint8 and made.shape[2:] == (4,))
