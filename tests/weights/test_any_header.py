"""Safetensors files whose header is right JSON that says anything."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_layerdiffusion.weights import read_weights
from tests.sentences import result_of

NUMBERS = st.integers(-2, 64) | st.sampled_from([2**31, 2**63, 2**64, 10**30, 1.5, None, True, "4"])
DTYPES = st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", "f32", None, 5])
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": DTYPES,
        "shape": st.lists(NUMBERS, max_size=5) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "more": NUMBERS,
    },
)
ANYTHING = st.recursive(NUMBERS | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)
HEADERS = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), TENSORS | ANYTHING, max_size=4) | ANYTHING


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADERS, st.binary(max_size=80), st.sampled_from([0, 1, -1, 2**40, 2**63]), st.integers(0, 9))
def test_any_header_is_read_or_refused(tmp_path, header, body, wrong, chance):
    text = json.dumps(header).encode()
    length = len(text) + (wrong if chance == 0 else 0)
    (tmp_path / "x.safetensors").write_bytes((length % 2**64).to_bytes(8, "little") + text + body)
    made = result_of(read_weights, tmp_path / "x.safetensors")
    assert made is None or isinstance(made, dict)
