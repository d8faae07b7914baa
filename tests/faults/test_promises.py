"""The short half of the matrix: every fault a few times, nothing lost and nothing wrong."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from tests.faults.cases import (
    CASES,
    any_infotext,
    broken_numbers,
    damaged_pictures,
    damaged_weights,
    hub_answers,
    unwritable_places,
    wrong_values,
)

SHORT = (
    damaged_pictures,
    damaged_weights,
    broken_numbers,
    wrong_values,
    any_infotext,
    hub_answers,
    unwritable_places,
)
"""The others start processes or take minutes; what they try once is among the tests of each room."""


def test_the_short_ones_are_in_the_matrix():
    assert set(SHORT) < set(CASES)


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.__name__)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_lost_and_nothing_is_wrong(tmp_path, case):
    found = case(tmp_path, 0.05)
    assert (found.lost, found.wrong, found.notes) == (0, 0, [])
    assert found.tried > 0
