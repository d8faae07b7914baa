"""The host's request, completed to whole pictures: a picture of a method with several frames takes several items.

Frames of a picture share its prompt and its init picture. What is changed on the processing object is put back after
the run, since the host's Batch tab and its scripts process one object again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from lib_layerdiffusion.methods import LayerMethod

T = TypeVar("T")
ATTRIBUTE = "layerdiffusion_given"


def repeated(items: Sequence[T], frames: int) -> list[T]:
    """Each item once for every frame of its picture."""
    return [item for item in items for _ in range(frames)]


def complete(p: Any, method: LayerMethod) -> str | None:
    """Round the batch on `p` up to whole pictures; returns the sentence for the user where it got larger."""
    frames = method.frame_count
    if frames == 1:
        return None
    size = method.padded_batch(p.batch_size)
    size = _init_pictures(p, method, size)
    _listed_prompts(p, frames, size)
    if size == p.batch_size:
        return None
    given = p.batch_size
    _change(p, "batch_size", size)
    return f"LayerDiffusion: this method makes {frames} pictures at once, so batch size {given} became {size}."


def put_back(p: Any) -> None:
    """What was given, unless somebody has changed it since; twice is harmless."""
    for name, (given, made) in vars(p).pop(ATTRIBUTE, {}).items():
        if getattr(p, name) is made:
            setattr(p, name, given)


def share_prompts(p: Any, frames: int) -> None:
    """Give the frames of a picture one prompt, also where wildcards have written another one for each item."""
    if frames == 1:
        return
    for name in ("all_prompts", "all_negative_prompts", "all_hr_prompts", "all_hr_negative_prompts"):
        _share(getattr(p, name, None), frames)


def share_batch_prompts(p: Any, frames: int) -> None:
    """As `share_prompts`, for the batch that is sampled next."""
    if frames == 1:
        return
    for name in ("prompts", "negative_prompts", "hr_prompts", "hr_negative_prompts"):
        _share(getattr(p, name, None), frames)


def _share(prompts: Any, frames: int) -> None:
    if isinstance(prompts, list):
        prompts[:] = [prompts[index - index % frames] for index in range(len(prompts))]


def _change(p: Any, name: str, value: Any) -> None:
    vars(p).setdefault(ATTRIBUTE, {})[name] = (getattr(p, name), value)
    setattr(p, name, value)


def _init_pictures(p: Any, method: LayerMethod, size: int) -> int:
    """The batch size that the init pictures ask for; one serves the whole batch, others make a picture each."""
    given = list(getattr(p, "init_images", None) or ())
    if len(given) < 2:
        return size
    if all(image is given[0] for image in given):  # how the Batch tab gives one picture
        _change(p, "init_images", given[:1])
        return size
    if len(given) % method.frame_count:
        _change(p, "init_images", repeated(given, method.frame_count))
        return len(given) * method.frame_count
    return size


def _listed_prompts(p: Any, frames: int, size: int) -> None:
    """A list of prompts, such as a matrix, asks for a picture of each."""
    listed = [name for name in ("prompt", "negative_prompt") if isinstance(getattr(p, name), list)]
    if not listed:
        return
    count = len(getattr(p, listed[0])) * frames
    for name in listed:
        _change(p, name, repeated(getattr(p, name), frames))
    for name in ("seed", "subseed"):
        seeds = getattr(p, name, None)
        if isinstance(seeds, list):
            _change(
                p, name, [seeds[0] + (seed - seeds[0]) * frames + frame for seed in seeds for frame in range(frames)]
            )
    _change(p, "n_iter", -(-count // size))
