"""Many runs with mistakes, errors and interruptions between; see `endurance`."""

from __future__ import annotations

import pytest

from tests.hosts.forge.endurance import endure

RUNS = 8


@pytest.mark.parametrize("part", range(4))
def test_many_runs_leave_the_plain_picture_as_it_was(forge, part):
    outcome = endure(forge, RUNS, skip=part * RUNS)
    print(f"{outcome.tried} runs; {outcome.memory[0]:.0f} to {outcome.memory[-1]:.0f} MiB")
    assert outcome.wrong == []
    assert outcome.tried == RUNS
