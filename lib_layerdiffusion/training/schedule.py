"""All stages of a family in one budget of minutes, side by side where they do not need each other.

Three tracks share the device: what sees pictures (VAE, E and D), and two of what sees latents (base, layers). Each
stage ends at a moment of the whole that is fixed beforehand, however late it began, so that the family is written in
time; one that fails costs its own result alone, where `start` has another.
"""

import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.family import Workshop
from lib_layerdiffusion.training.layers import RECIPES
from lib_layerdiffusion.training.loop import CHECKPOINT, LoopSettings
from lib_layerdiffusion.training.sharing import SHARING_RECIPES

DONE, FAILED = "done", "failed"
"""Empty files in a stage's folder."""
NEVER = 10**9
GRACE = 20.0
"""Seconds that a stage may take to end after its time."""


@dataclass(frozen=True)
class Turn:
    """A stage and when it ends, as a share of the whole budget. after: the stages that it needs."""

    stage: str
    end: float
    after: tuple[str, ...] = ()


def _layer_turns(methods: Iterable[str], begin: float, end: float) -> tuple[Turn, ...]:
    """Files of methods in equal parts."""
    names = tuple(methods)
    part = (end - begin) / len(names)
    return tuple(Turn(name, begin + (row + 1) * part, ("offset", "transparency")) for row, name in enumerate(names))


def tracks(*, keep_latents: bool) -> Mapping[str, Sequence[Turn]]:
    """What runs side by side; where latents stay, the base need not wait for the VAE."""
    base = Turn("base", 0.45, () if keep_latents else ("vae",))
    offset = Turn("offset", 0.6, ("base", "transparency"))
    return {
        "pictures": (Turn("vae", 0.15), Turn("transparency", 0.4, ("vae",)), Turn("decoder", 0.94)),
        "latents": (base, offset, *_layer_turns(RECIPES, offset.end, 0.94)),
        "sharing": _layer_turns(SHARING_RECIPES, offset.end, 0.94),
    }


@dataclass(frozen=True)
class Plan:
    """What is trained, from when to when (`time.time()`), and how each stage's loop is set up."""

    shop: Workshop
    begin: float
    minutes: float
    options: Mapping[str, Mapping[str, Any]]
    """For `vae`, `base`, `transparency`, `decoder`, `offset` and `layer`: the rest of `LoopSettings`."""

    @property
    def tracks(self) -> Mapping[str, Sequence[Turn]]:
        """What runs side by side."""
        return tracks(keep_latents=self.shop.keep_latents)

    def end(self, turn: Turn) -> float:
        """When a turn is over."""
        return self.begin + 60 * self.minutes * turn.end

    def settings(self, turn: Turn) -> LoopSettings:
        """Of a turn's loop."""
        options = self.options[turn.stage if turn.stage in self.options else "layer"]
        folder = self.shop.runs / turn.stage
        return LoopSettings(folder, until=self.end(turn), sample_steps=NEVER, **options)

    def is_over(self, stage: str) -> bool:
        """Whether a stage has ended, one way or the other."""
        return any((self.shop.runs / stage / name).exists() for name in (DONE, FAILED))


def _wait(plan: Plan, stages: Iterable[str]) -> None:
    """Until stages are over, or their time is."""
    ends = {turn.stage: plan.end(turn) for track in plan.tracks.values() for turn in track}
    while any(not plan.is_over(stage) and time.time() < ends[stage] + GRACE for stage in stages):
        time.sleep(0.2)


def _prepare(plan: Plan, turn: Turn) -> None:
    """Draw and encode pictures while the stages that a turn needs are still trained."""
    if turn.stage == "base":
        _ = plan.shop.pictures
    elif "offset" in turn.after and not plan.is_over("offset"):
        _wait(plan, [stage for stage in turn.after if stage != "offset"])
        _ = plan.shop.pairs
    _wait(plan, turn.after)


def run_turn(plan: Plan, turn: Turn) -> None:
    """Train one stage once those that it needs are over, or their time is."""
    folder = plan.shop.runs / turn.stage
    if plan.is_over(turn.stage):
        return
    folder.mkdir(parents=True, exist_ok=True)
    ended = FAILED
    try:
        _prepare(plan, turn)
        plan.shop.train(turn.stage, plan.settings(turn), lambda line: print(f"{turn.stage}: {line}", flush=True))
        ended = DONE
    except Exception:  # noqa: BLE001 - whatever it was, the other stages go on
        print(f"{turn.stage} failed:\n{traceback.format_exc()}", flush=True)
    (folder / ended).touch()


def run_track(plan: Plan, turns: Sequence[Turn]) -> None:
    """One track, stage after stage."""
    for turn in turns:
        run_turn(plan, turn)


def train_all(plan: Plan, target: Path) -> None:
    """Run the tracks in processes of their own and export what they made.

    Stages of an earlier call on the same folder that were finished stay as they are. A failed stage is tried again.

    Raises:
        SettingsError: a stage failed that nothing stands in for.
    """
    for track in plan.tracks.values():
        for turn in track:
            (plan.shop.runs / turn.stage / FAILED).unlink(missing_ok=True)
    context = get_context("spawn")
    children = [context.Process(target=run_track, args=(plan, turns), name=name) for name, turns in plan.tracks.items()]
    for child in children:
        child.start()
    for child in children:
        child.join()
    stages = [turn.stage for track in plan.tracks.values() for turn in track]
    failed = [stage for stage in stages if not (plan.shop.runs / stage / DONE).exists()]
    lost = [stage for stage in failed if not (plan.shop.runs / stage / CHECKPOINT).exists()]
    # The base can do without having gone on.
    needed = [stage for stage in lost if stage == "base" or (plan.shop.start is None and stage != "offset")]
    if needed:
        raise SettingsError(
            f"These stages failed, so that there is no family to write: {', '.join(needed)}; see above."
        )
    plan.shop.export(target)
