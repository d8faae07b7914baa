"""All stages in one budget: in order, side by side, past a failure, and not again what is done."""

import time

import pytest

from lib_layerdiffusion.training import schedule
from lib_layerdiffusion.training.layers import RECIPES
from lib_layerdiffusion.training.schedule import Plan, run_track, tracks
from lib_layerdiffusion.training.sharing import SHARING_RECIPES


class Shop:
    """Writes down what is trained and until when."""

    pictures = pairs = ()

    def __init__(self, runs, *, keep_latents, broken=()):
        self.runs, self.keep_latents, self.broken, self.trained = runs, keep_latents, broken, {}

    def train(self, stage, settings, report):
        if stage in self.broken:
            raise RuntimeError(stage)
        self.trained[stage] = settings.until


def plan(tmp_path, minutes=1.0, **options):
    begun = {"begin": time.time() - 600, "minutes": minutes}
    return Plan(
        Shop(tmp_path, **{"keep_latents": False, **options}), **begun, options={"layer": {}, "vae": {}, "base": {}}
    )


@pytest.mark.parametrize("keep_latents", [False, True])
def test_every_stage_has_a_turn_and_turns_follow_each_other(keep_latents):
    found = tracks(keep_latents=keep_latents)
    turns = [turn for track in found.values() for turn in track]
    alone = {"vae", "base", "offset", "transparency", "decoder"}
    assert {turn.stage for turn in turns} == {*alone, *RECIPES, *SHARING_RECIPES}
    assert len({turn.stage for turn in turns}) == len(turns)
    ends = {turn.stage: turn.end for turn in turns}
    for track in found.values():
        assert [turn.end for turn in track] == sorted(turn.end for turn in track)
        # Time is left for writing the family, and nobody waits for what ends after it.
        assert track[-1].end < 1
        assert all(ends[needed] < turn.end for turn in track for needed in turn.after)
    needed = {turn.stage: turn.after for turn in turns}
    assert needed["base"] == (() if keep_latents else ("vae",))


def test_a_failure_costs_its_own_stage_alone_and_what_is_done_stays(tmp_path):
    made = plan(tmp_path, broken=("fg2ble",))
    (tmp_path / "bg2ble").mkdir()
    (tmp_path / "bg2ble" / schedule.DONE).touch()
    turns = [turn for turn in made.tracks["latents"] if turn.stage not in ("base", "offset")]
    run_track(made, turns)
    assert set(made.shop.trained) == set(RECIPES) - {"bg2ble", "fg2ble"}
    assert (tmp_path / "fg2ble" / schedule.FAILED).exists()
    assert made.is_over("fgble2bg")
    assert made.shop.trained["fgble2bg"] == pytest.approx(made.begin + 60 * turns[-1].end)


def test_a_stage_waits_for_what_it_needs_and_no_longer_than_its_time(tmp_path, monkeypatch):
    made = plan(tmp_path)
    monkeypatch.setattr(schedule, "GRACE", 601.0)
    begun = time.monotonic()
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / schedule.FAILED).touch()
    run_track(made, made.tracks["latents"][:1])
    assert time.monotonic() - begun < 5
    assert set(made.shop.trained) == {"base"}
