"""What several commands share: choosing a model, printing, progress bars."""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lib_layerdiffusion.garbage import nothing_collected

if TYPE_CHECKING:
    from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion

Run = Callable[[argparse.Namespace], int]

MODULES = {
    "pillow": "PIL",
    "opencv-python": "cv2",
    "psd-tools": "psd_tools",
    "huggingface-hub": "huggingface_hub",
    "resvg-py": "resvg_py",
}
"""Package -> its module, where they are called differently."""


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is said; the usage of some commands fills a screen."""

    def error(self, message: str) -> NoReturn:
        """End with a sentence on standard error."""
        self.exit(2, f'{self.prog}: {message} ("{self.prog} --help" shows how)\n')


def add_command(subparsers: Any, name: str, summary: str, *examples: str, within: str = "") -> argparse.ArgumentParser:
    """Register a subcommand.

    summary: its line in the list. examples: what to type behind its name. within: the command that it is an action of.
    """
    return subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples_text(f"{within} {name}".strip(), *examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def examples_text(name: str, *examples: str) -> str:
    """Command lines to try, for the end of a command's help."""
    return "\n".join(
        ["examples:", *(" ".join(filter(None, ("  layerdiffusion", name, example))) for example in examples)]
    )


def file_path(text: str) -> Path:
    """The type of arguments that name a file or folder: an empty one would be taken for the folder one is in."""
    return Path(not_empty(text))


def not_empty(text: str) -> str:
    """The type of arguments that have to say something.

    Raises:
        argparse.ArgumentTypeError: it is empty; argparse says of which argument.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: leave it out, or say which")
    return text


def package_of(module: str) -> str:
    """The package that brings a module."""
    top = module.partition(".")[0]
    return next((package for package, name in MODULES.items() if name == top), top)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The choice of a model and of where it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint",
        metavar="MODEL",
        type=not_empty,
        help=".safetensors file, diffusers folder or hub id (default: the bundled family)",
    )
    group.add_argument(
        "--weights", type=file_path, metavar="DIR", help="folder of the layer files; missing ones are fetched"
    )
    group.add_argument("--device", help="such as cuda, cuda:1, mps or cpu (default: the best there is)")
    group.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on a GPU, float32 on a CPU)")
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoder: faster for many pictures of a size, the first waits a minute or two",
    )
    group.add_argument("--offload", default="none", help="none, model or sequential: less GPU memory, more time")


def model_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `LayerDiffusion.from_checkpoint`."""
    return {
        "source": arguments.checkpoint,
        "weights": arguments.weights,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "offload": arguments.offload,
        "compiled": arguments.compile,
    }


def engine_from(arguments: argparse.Namespace) -> LayerDiffusion:
    """Load the model that the command line names.

    Raises:
        LayerDiffusionError: it cannot be loaded.
    """
    return library().from_checkpoint(**model_arguments(arguments))


def library() -> type[LayerDiffusion]:
    """The library's class, imported without a sound."""
    # Older transformers draw an empty bar while they look at their cache.
    with redirect_stderr(io.StringIO()), nothing_collected():
        from lib_layerdiffusion.hosts.diffusers.library import LayerDiffusion
    gc.freeze()  # what was loaded stays: there is nothing to be collected in it

    return LayerDiffusion


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: one JSON object on standard output instead of text."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def report(arguments: argparse.Namespace, values: Mapping[str, Any], lines: list[str]) -> None:
    """Print the outcome, as JSON if asked for."""
    text = json.dumps(values, ensure_ascii=False, default=str) if arguments.json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")


@contextmanager
def stage_bars(*, quiet: bool) -> Generator[Callable[[str, int, int], None], None, None]:
    """A progress callback that draws a bar for the stage that runs, on standard error where that is a terminal.

    One bar at a time: it is closed when its stage is complete or another one begins.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _stage, _done, _total: None
        return
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}

    def advance(stage: str, done: int, total: int) -> None:
        bar = bars.get(stage)
        if bar is None:
            _close(bars)
            bar = bars[stage] = tqdm(total=total, desc=stage, file=sys.stderr)
        bar.update(done - bar.n)
        if done >= total:
            _close(bars)

    try:
        yield advance
    finally:
        _close(bars)


def _close(bars: dict[str, Any]) -> None:
    while bars:
        bars.popitem()[1].close()


@contextmanager
def naming_in(folder: Path) -> Generator[None, None, None]:
    """Names that are free stay free until they are taken: other commands in the folder wait."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: names are as free as they look
        yield
        return
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    # The folder's own descriptor, so that no file is left behind and a killed command gives it back.
    try:
        descriptor = os.open(nearest, os.O_RDONLY)
    except OSError:  # one that may be written and not read
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def free_stem(folder: Path, wanted: str) -> str:
    """`wanted`, or with a number behind it where the folder has files of that name, whatever their kind."""
    taken = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()

    def is_taken(stem: str) -> bool:
        return any(name.startswith((f"{stem}.", f"{stem}-")) for name in taken)

    if not is_taken(wanted):
        return wanted
    return next(stem for number in range(2, len(taken) + 3) if not is_taken(stem := f"{wanted}_{number}"))


def free_path(wanted: Path) -> Path:
    """`wanted`, or with a number behind its name where there is something already."""
    numbered = (wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}") for number in count(2))
    return next(path for path in chain([wanted], numbered) if not os.path.lexists(path))
