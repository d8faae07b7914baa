"""The short half of the matrix: every fault a few times, nothing lost and nothing wrong."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from tests.faults.cases import CASES, killed_batches, killed_downloads, killed_layer_files, many_generations

SLOW = {killed_batches, killed_downloads, killed_layer_files, many_generations}


@pytest.mark.parametrize("case", [case for case in CASES if case not in SLOW], ids=lambda case: case.__name__)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_lost_and_nothing_is_wrong(tmp_path, case):
    found = case(tmp_path, 0.05)
    assert (found.lost, found.wrong, found.notes) == (0, 0, [])
    assert found.tried > 0
