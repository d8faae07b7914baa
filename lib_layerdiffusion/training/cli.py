"""Command-line registration of the recipe: `layerdiffusion train <stage>`."""

import argparse
from pathlib import Path
from typing import Any

# Every stage; `decoder` may be left out: it goes on with D while E, and so the latents, stay.
DEFAULTS: dict[str, dict[str, float]] = {
    "vae": {"batch": 8, "learning_rate": 2e-3, "warmup": 100, "ema_decay": 0.999},
    "base": {"batch": 32, "learning_rate": 1e-3, "warmup": 200, "ema_decay": 0.998},
    "transparency": {"batch": 8, "learning_rate": 1.5e-3, "warmup": 100, "ema_decay": 0.997},
    "decoder": {"batch": 8, "learning_rate": 1e-3, "warmup": 50, "ema_decay": 0.998},
    "layer": {"batch": 32, "learning_rate": 2e-3, "warmup": 50, "ema_decay": 0.99, "weight_decay": 0.0},
}


def add_train_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register `train` (data, vae, base, transparency, decoder, layer, export).

    Each parsed namespace carries `run`, a function that takes the namespace and returns an exit code.
    """
    train = subparsers.add_parser("train", help="train a family of your own, stage by stage")
    stages = train.add_subparsers(dest="stage", required=True)

    data = stages.add_parser("data", help="build the data set from the icon packages")
    data.add_argument("--data", type=Path, required=True, help="folder of the data set")
    data.add_argument("--fetch", action="store_true", help="download the packages with npm first")
    data.add_argument("--size", default=128, help="pixels a side")
    data.set_defaults(run=_run_data)

    for name in DEFAULTS:
        stage = stages.add_parser(name, help=f"train the {name} stage; starts again where it was stopped")
        _add_folders(stage)
        length = stage.add_mutually_exclusive_group(required=True)
        length.add_argument("--minutes", help="train for this long, over all resumptions")
        length.add_argument("--steps", help="train for this many steps")
        stage.add_argument("--batch", help="pictures a step")
        stage.add_argument("--learning-rate")
        stage.add_argument("--seed", default=0)
        stage.add_argument("--threads", default=2)
        stage.add_argument("--no-bf16", action="store_true", help="compute in single precision")
        if name in ("base", "layer"):
            stage.add_argument("--each", default=16, help="pictures of every subject")
        if name == "layer":
            stage.add_argument("--method", required=True, help="the method whose file is trained, such as bg2ble")
        stage.set_defaults(run=_run_stage, name=name)

    export = stages.add_parser("export", help="write the trained family as a diffusers folder with layer files")
    _add_folders(export)
    export.add_argument("--to", type=Path, required=True, help="target folder, such as models/demo")
    export.set_defaults(run=_run_export)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--runs", type=Path, required=True, help="folder of checkpoints, one subfolder a stage")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--pipeline", type=Path, help="train for this SD1.5 or SDXL diffusers folder, not a new family")
    origin.add_argument("--start", type=Path, help="go on from this exported family, such as models/demo")


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
    options: dict[str, Any] = dict(DEFAULTS[arguments.name])
    given = {"batch": arguments.batch, "learning_rate": arguments.learning_rate}
    options.update({key: value for key, value in given.items() if value is not None})
    settings = LoopSettings(
        arguments.runs / stage, steps=arguments.steps, minutes=arguments.minutes, seed=arguments.seed,
        threads=arguments.threads, bf16=not arguments.no_bf16, **options,
    )  # fmt: skip
    _workshop(arguments).train(stage, settings)
    return 0


def _run_export(arguments: argparse.Namespace) -> int:
    _workshop(arguments).export(arguments.to)
    return 0
