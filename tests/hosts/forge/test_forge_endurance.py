"""Many runs with mistakes, errors and interruptions between; see `endurance`."""

from __future__ import annotations

from tests.hosts.forge.endurance import endure

IN_A_REAL_HOST, IN_THE_FAKE = 30, 60


def test_many_runs_leave_the_plain_picture_as_it_was(forge):
    outcome = endure(forge, IN_A_REAL_HOST if forge.is_real else IN_THE_FAKE)
    print(
        f"{outcome.tried} runs of {len(outcome.kinds)} kinds; {outcome.memory[0]:.0f} to {outcome.memory[-1]:.0f} MiB"
    )
    assert outcome.wrong == []
    assert len(outcome.kinds) >= 20
