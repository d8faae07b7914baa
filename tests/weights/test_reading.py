from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import pickle
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.weights import Catalogue, check_file, read_weights
from lib_layerdiffusion.weights.reading import FETCH_AGAIN, parse_tensors

FILE = dataclasses.replace(Catalogue.load()["layer_xl_fg2ble"], sha256=None, sha256_revision="")
TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b.half": torch.ones(5, dtype=torch.float16)}
WHOLE = save(TENSORS)


def write(tmp_path, content: bytes):
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    return path


def torch_checkpoint(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, **options)
    return buffer.getvalue()


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_tensors_are_read_as_they_were_written(tmp_path):
    read = read_weights(write(tmp_path, WHOLE))
    assert read.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert read[key].dtype is tensor.dtype
        assert torch.equal(read[key], tensor)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "ends before its header"),
        (WHOLE[:5], "ends before its header"),
        (WHOLE[:40], "ends before its header"),
        (WHOLE[:-1], "its header speaks of"),
        (WHOLE + b"\0", "its header speaks of"),
        (torch_checkpoint(), "pickled"),
        (torch_checkpoint(_use_new_zipfile_serialization=False), "pickled"),
        (pickle.dumps({"a": 1}), "pickled"),
        (b"<!doctype html><title>Sign in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of git-lfs"),
        (b"\xff" * 64, "ends before its header"),
        (struct.pack("<Q", 4) + b"{]}!", "header cannot be read"),
        (with_header([1, 2]), "header cannot be read"),
        (with_header({"a": {"dtype": "F32", "shape": [1]}}), "header cannot be read"),
        (with_header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "cannot be read"),
        (with_header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}, b"\0" * 4), "cannot be read"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, complaint):
    path = write(tmp_path, content)
    with pytest.raises(WeightsError, match=complaint) as refused:
        read_weights(path, FETCH_AGAIN)
    assert str(path) in str(refused.value)
    assert str(refused.value).endswith("delete it, and it is fetched again.")
    with pytest.raises(WeightsError, match="choose another file") as refused:
        read_weights(path)
    assert "delete" not in str(refused.value)  # it may be the only copy of something of the user's own


@given(st.integers(0, len(WHOLE) - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_truncated_file_is_refused(tmp_path, length):
    with pytest.raises(WeightsError):
        read_weights(write(tmp_path, WHOLE[:length]))


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_is_read_or_refused(tmp_path, index, value):
    content = bytearray(WHOLE)
    content[index] = value
    try:
        read = read_weights(write(tmp_path, bytes(content)))
    except WeightsError:
        return
    assert sum(tensor.nbytes for tensor in read.values()) <= len(WHOLE)


def test_a_pickle_is_refused_without_being_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    for protocol in (2, 4, 5):
        with pytest.raises(WeightsError, match="pickled"):
            read_weights(write(tmp_path, pickle.dumps(Bomb(), protocol=protocol)))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(WeightsError, match="cannot be opened"):
            read_weights(path)


def test_the_published_digest_and_size_are_compared(tmp_path):
    path = write(tmp_path, WHOLE)
    digest = hashlib.sha256(WHOLE).hexdigest()
    check_file(path, FILE)
    check_file(path, dataclasses.replace(FILE, size=len(WHOLE), sha256=digest))
    with pytest.raises(WeightsError, match="published one has 5"):
        check_file(path, dataclasses.replace(FILE, size=5))
    with pytest.raises(WeightsError, match="differs from the published one"):
        check_file(path, dataclasses.replace(FILE, sha256="0" * 64))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30], ids=["nan", "inf", "-inf", "1e30", "-1e30"]
)
@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_that_nothing_can_be_computed_with_are_found(tmp_path, value, place, dtype):
    weights = torch.ones(100).to(dtype)
    weights[place] = value
    path = write(tmp_path, save({"fine": torch.ones(3), "conv.weight": weights}))
    with pytest.raises(
        WeightsError, match=r'"conv\.weight" has (values that are no numbers|infinite values|values up to)'
    ):
        read_weights(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8])
def test_numbers_that_are_no_weights_are_refused(tmp_path, dtype):
    path = write(tmp_path, save({"conv.weight": torch.ones(4).to(dtype)}))
    with pytest.raises(WeightsError, match="not floating-point"):
        read_weights(path)


def test_eight_bit_floats_are_numbers(tmp_path):
    good, bad = torch.ones(4).to(torch.float8_e4m3fn), torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    assert read_weights(write(tmp_path, save({"a": good})))["a"].dtype is torch.float8_e4m3fn
    with pytest.raises(WeightsError, match="no numbers"):
        read_weights(write(tmp_path, save({"a": bad})))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": kind, "shape": [1], "data_offsets": [0, 4]}
        for kind in ("C64", "F8_E8M0", "F4", "F6_E2M3", "U64", "I4", 5, None, [], {}, "\ud800")
    ]
    + [
        {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
        for shape in ([-1], [1.5], ["1"], None, "1", [2**63], [2**64], [2**31] * 3)
    ]
    + [
        {"dtype": "F32", "shape": [1], "data_offsets": offsets}
        for offsets in ([4, 0], [0], [], None, [0, 2**64], [-4, 4], [0, "4"], [0, 4.0], [True, 4], {"0": 0, "1": 4})
    ],
    ids=lambda entry: json.dumps(entry)[:50],
)
def test_headers_that_are_not_true_are_a_sentence(tmp_path, entry):
    path = write(tmp_path, with_header({"a": entry, "b": entry}, bytes(4)))
    with pytest.raises(WeightsError) as refused:
        read_weights(path)
    assert len(str(refused.value)) < 600
    with contextlib.suppress(WeightsError):  # and nothing else; there are types that one release of torch has
        parse_tensors(with_header({"a": entry}, bytes(4)))


def test_deep_json_is_a_sentence(tmp_path):
    text = b'{"a":' * 50_000
    with pytest.raises(WeightsError, match="header cannot be read"):
        read_weights(write(tmp_path, struct.pack("<Q", len(text)) + text))


def test_a_header_of_surrogates_is_a_sentence(tmp_path):
    for key in ("\ud800", "a\nb", "x" * 10_000):
        path = write(tmp_path, with_header({key: {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)))
        with pytest.raises(WeightsError) as refused:
            read_weights(path)
        str(refused.value).encode()
        assert len(str(refused.value).splitlines()) == 1
