"""Command-line registration of the recipe: `layerdiffusion train <stage>`."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Every stage. Two may be left out: `decoder` goes on with D while E, and so the latents, stay; `offset` with the base.
DEFAULTS: dict[str, dict[str, float]] = {
    "vae": {"batch": 8, "learning_rate": 2e-3, "warmup": 100, "ema_decay": 0.999},
    "base": {"batch": 32, "learning_rate": 1e-3, "warmup": 200, "ema_decay": 0.998},
    "transparency": {"batch": 8, "learning_rate": 1.5e-3, "warmup": 100, "ema_decay": 0.997},
    "decoder": {"batch": 8, "learning_rate": 1e-3, "warmup": 50, "ema_decay": 0.998},
    "offset": {"batch": 32, "learning_rate": 4e-4, "warmup": 100, "ema_decay": 0.998},
    "layer": {"batch": 32, "learning_rate": 2e-3, "warmup": 50, "ema_decay": 0.99, "weight_decay": 0.0},
}
# What a GPU needs to be busy.
CUDA_DEFAULTS: dict[str, dict[str, float]] = {
    "vae": {"batch": 32, "learning_rate": 1e-3},
    "base": {"batch": 192, "learning_rate": 1.5e-3},
    "transparency": {"batch": 32, "learning_rate": 1e-3},
    "decoder": {"batch": 32},
    "offset": {"batch": 192, "learning_rate": 1e-3},
    "layer": {"batch": 96},
}


FOLDERS = "--data data --runs runs"
"""Of every example."""


def add_train_parser(
    subparsers: "argparse._SubParsersAction[Any]", add_command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Register `train` (data, all, export, and each stage).

    add_command: registers a command; takes (subparsers, name, summary, *examples, within="").
    Each parsed namespace carries `run`, a function that takes the namespace and returns an exit code.
    """
    train = add_command(
        subparsers,
        "train",
        "train a family of your own, stage by stage or all at once",
        "data --data data --fetch",
        f"all {FOLDERS} --minutes 120 --to family",
        f"transparency {FOLDERS} --minutes 60",
        f"export {FOLDERS} --to family",
    )
    stages = train.add_subparsers(dest="stage", required=True, metavar="STAGE")

    data = add_command(
        stages, "data", "build the data set from the icon packages", "--data data --fetch", within="train"
    )
    data.add_argument("--data", type=Path, required=True, help="folder of the data set")
    data.add_argument("--fetch", action="store_true", help="download the packages with npm first")
    data.add_argument("--size", default=256, help="pixels a side")
    data.set_defaults(run=_run_data)

    for name in DEFAULTS:
        example = f"{FOLDERS} --minutes 60{' --method bg2ble' if name == 'layer' else ''}"
        summary = f"train the {name} stage; starts again where it was stopped"
        stage = add_command(stages, name, summary, example, within="train")
        _add_folders(stage)
        length = stage.add_mutually_exclusive_group(required=True)
        length.add_argument("--minutes", help="train for this long, over all resumptions")
        length.add_argument("--steps", help="train for this many steps")
        stage.add_argument("--batch", help="pictures a step")
        stage.add_argument("--learning-rate")
        _add_loop(stage, each=name in ("base", "offset", "layer"))
        if name == "layer":
            stage.add_argument("--method", required=True, help="the method whose file is trained, such as bg2ble")
        stage.set_defaults(run=_run_stage, name=name)
    _add_whole(stages, add_command)


def _add_whole(stages: Any, add_command: Callable[..., argparse.ArgumentParser]) -> None:
    whole = add_command(
        stages,
        "all",
        "train every stage in one budget, side by side, and export the family",
        f"{FOLDERS} --minutes 120 --to family",
        within="train",
    )
    _add_folders(whole, exported=True)
    whole.add_argument("--minutes", required=True, help="for everything, on the clock on the wall")
    _add_loop(whole, each=True)
    whole.set_defaults(run=_run_all)

    export = add_command(
        stages,
        "export",
        "write the trained family as a diffusers folder with layer files",
        f"{FOLDERS} --to family",
        within="train",
    )
    _add_folders(export, exported=True)
    export.set_defaults(run=_run_export)


def _add_folders(parser: argparse.ArgumentParser, *, exported: bool = False) -> None:
    if exported:
        parser.add_argument("--to", type=Path, required=True, help="target folder, such as family")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--runs", type=Path, required=True, help="folder of checkpoints, one subfolder a stage")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--pipeline", type=Path, help="train for this SD1.5 or SDXL diffusers folder, not a new family")
    origin.add_argument("--start", type=Path, help="go on from this exported family, such as models/demo")


def _add_loop(parser: argparse.ArgumentParser, *, each: bool) -> None:
    parser.add_argument("--seed", default=0)
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: the fastest)")
    parser.add_argument("--threads", default=2, help="of a CPU")
    parser.add_argument("--no-bf16", action="store_true", help="compute in single precision")
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks first; pays on a GPU after a minute"
    )
    parser.add_argument("--no-graphs", action="store_true", help="on a GPU, launch every operation by itself")
    if each:
        parser.add_argument("--each", default=16, help="pictures of every subject")


def _loop_options(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Settings of a stage's loop, less its folder and its length."""
    from lib_layerdiffusion.training.devices import chosen_device

    on_cuda = chosen_device(arguments.device).type == "cuda"
    options: dict[str, Any] = {**DEFAULTS[name], **(CUDA_DEFAULTS[name] if on_cuda else {})}
    given = {key: getattr(arguments, key, None) for key in ("batch", "learning_rate")}
    options.update({key: value for key, value in given.items() if value is not None})
    switches = {"bf16": not arguments.no_bf16, "compile": arguments.compile, "graphs": not arguments.no_graphs}
    return {**options, **switches, "seed": arguments.seed, "threads": arguments.threads, "device": arguments.device}


def _workshop(arguments: argparse.Namespace) -> Any:
    from lib_layerdiffusion.training.family import Workshop

    each = {"each": arguments.each} if hasattr(arguments, "each") else {}
    return Workshop(arguments.data, arguments.runs, pipeline=arguments.pipeline, start=arguments.start, **each)


def _read(arguments: argparse.Namespace) -> None:
    """Read the numbers as everywhere else; the message names the option."""
    from lib_layerdiffusion.settings import kinds

    numbers = {
        "--size": kinds.whole(32, 1024, "pixels"),
        "--minutes": kinds.number(0.01, 1e6),
        "--steps": kinds.whole(1, 10**9),
        "--batch": kinds.whole(1, 4096),
        "--learning-rate": kinds.number(0, 1),
        "--seed": kinds.whole(0, 2**31),
        "--threads": kinds.whole(0, 1024),
        "--each": kinds.whole(1, 10_000),
    }
    kinds.read_options(arguments, numbers)


def _run_data(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.training import data

    _read(arguments)
    if arguments.fetch:
        data.fetch_packages(arguments.data)
    count = data.build(arguments.data, arguments.size)
    other = data.build_other(arguments.data, arguments.size)
    print(f"{count} pictures in {arguments.data}, and {other} of another style to measure on")
    return 0


def _run_all(arguments: argparse.Namespace) -> int:
    begin = time.time()
    from lib_layerdiffusion.errors import SettingsError
    from lib_layerdiffusion.training.data import picture_size
    from lib_layerdiffusion.training.schedule import Plan, train_all

    _read(arguments)
    picture_size(arguments.data)  # without a data set every stage would fail, one after the other
    if arguments.pipeline is not None:
        raise SettingsError("All stages at once are for a family of one's own: train for a pipeline stage by stage.")
    options = {name: _loop_options(arguments, name) for name in DEFAULTS}
    shop = replace(_workshop(arguments), keep_latents=arguments.start is not None)
    train_all(Plan(shop, begin, arguments.minutes, options), arguments.to)
    return 0


def _run_stage(arguments: argparse.Namespace) -> int:
    from lib_layerdiffusion.errors import SettingsError
    from lib_layerdiffusion.training.layers import RECIPES
    from lib_layerdiffusion.training.loop import LoopSettings
    from lib_layerdiffusion.training.sharing import SHARING_RECIPES

    _read(arguments)
    methods = (*RECIPES, *SHARING_RECIPES)
    stage = arguments.method if arguments.name == "layer" else arguments.name
    if arguments.name == "layer" and stage not in methods:
        raise SettingsError(f'There is no recipe for the method "{stage}"; take one of {", ".join(methods)}.')
    options = _loop_options(arguments, arguments.name)
    settings = LoopSettings(arguments.runs / stage, steps=arguments.steps, minutes=arguments.minutes, **options)
    _workshop(arguments).train(stage, settings)
    return 0


def _run_export(arguments: argparse.Namespace) -> int:
    _workshop(arguments).export(arguments.to)
    return 0
