"""Where an engine's model comes from: a checkpoint, a folder, a hub, the bundled family, or the spot."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lib_layerdiffusion.engine.request import VALUES
from lib_layerdiffusion.errors import HostError, ModelError, SettingsError, within_memory
from lib_layerdiffusion.hosts.diffusers.checkpoint import load_pipeline
from lib_layerdiffusion.hosts.diffusers.engine_host import OFFLOADS, EngineHost, ModelCard
from lib_layerdiffusion.hosts.diffusers.host import DiffusersHost
from lib_layerdiffusion.methods import METHODS, Family
from lib_layerdiffusion.places import RANDOM_MODEL, bundled_family, default_weights_folder
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.settings.fields import PASS_COUNTS
from lib_layerdiffusion.weights import WeightStore

LAYERS_FOLDER = "layers"
CARD_FILE = "layerdiffusion.json"
SUBJECTS_FILE = "subjects.txt"
_CARD_VALUES = {
    "name": kinds.text(),
    "steps": VALUES["steps"],
    "guidance": VALUES["guidance"],
    "guidance_start": kinds.number(0, 1),
    "decode_passes": kinds.one_of(*PASS_COUNTS),
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def best_device() -> torch.device:
    """The fastest device that torch can use."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    mps = getattr(torch.backends, "mps", None)
    return torch.device("mps" if mps is not None and mps.is_available() else "cpu")


def open_source(
    source: str | Path | None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    offload: str = "none",
    weights: WeightStore | Path | str | None = None,
) -> tuple[EngineHost, WeightStore]:
    """Load a model and the store of its layer files; arguments as in `LayerDiffusion.from_checkpoint`.

    Raises:
        LayerDiffusionError: it cannot be loaded, or an argument is unknown.
    """
    place, kind = _device(device), _dtype(dtype)
    if offload not in OFFLOADS:
        raise SettingsError(f'There is no offload mode "{offload}"; use one of: {", ".join(OFFLOADS)}.')
    if offload != "none" and place.type == "cpu":
        raise HostError("Offloading moves weights off a GPU, and there is none: leave it out.")
    precision = kind or (torch.float32 if place.type == "cpu" else torch.float16)
    bundled = bundled_family() if source is None else None
    origin = source if bundled is None else bundled
    if origin is None:
        pipeline, card, store = _random_family(precision)
    else:
        with within_memory("this model"):
            pipeline = load_pipeline(origin, precision)
        card, folder = _card(Path(str(origin)), is_bundled=bundled is not None)
        store = _store(weights, folder)
    broken = DiffusersHost(pipeline, card.families).broken_part()
    if broken:
        raise ModelError(f'"{origin}" is broken ({broken}): get it again or choose another one.')
    with within_memory("this model"):
        _place(pipeline, place, offload)
    return EngineHost(pipeline, card, offload, exact=kind is torch.float32), store


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise SettingsError(f'There is no dtype "{dtype}"; use one of: {", ".join(_DTYPES)}.')
    return _DTYPES[dtype]


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return best_device()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f'Device "{device}" cannot be used here: leave it out to take the best there is.'
        ) from error
    return place


def _place(pipeline: Any, device: torch.device, offload: str) -> None:
    pipeline.set_progress_bar_config(disable=True)
    if offload == "none":
        pipeline.to(device)
        return
    # Whoever offloads is short of memory, so the VAE's own savings come with it.
    pipeline.vae.enable_slicing()
    pipeline.vae.enable_tiling()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


def _card(origin: Path, *, is_bundled: bool) -> tuple[ModelCard, Path | None]:
    """What a folder says of itself, and its layer files: small families bring their own."""
    layers = origin / LAYERS_FOLDER
    name = origin.stem if origin.suffix == ".safetensors" else origin.name
    source = "the bundled family" if is_bundled else str(origin)
    if not layers.is_dir():
        return ModelCard(name=name, source=source), None
    known = _known(origin / CARD_FILE)
    present = {path.stem for path in layers.glob("*.safetensors")}
    families = tuple(family for family in Family if any(row.weights in present for row in METHODS.of_family(family)))
    # SDXL's methods come first: a family of both kinds makes its plain transparent pictures with the cheaper technique.
    families = tuple(sorted(families, key=lambda family: family is not Family.SDXL))
    own = {"name": name, "source": source, "families": families, "subjects": _subjects(origin), **known}
    return ModelCard(**own), layers


def _known(path: Path) -> dict[str, Any]:
    """What a family's card says of how it is used best."""
    values = _card_values(path)
    try:
        known = {key: kind.read(key, values[key]) for key, kind in _CARD_VALUES.items() if key in values}
        sizes, words = (_listed(key, values.get(key, [])) for key in ("sizes", "words"))
        known |= {
            "sizes": tuple(map(_size, sizes)),
            "words": tuple(kinds.text().read("a word", word) for word in words),
        }
    except SettingsError as error:
        raise ModelError(f'"{path}" cannot be used, repair or delete it: {error}') from error
    return known


def _listed(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise SettingsError(f"{name} must be a list.")
    return value


def _size(value: object) -> tuple[object, object]:
    sides = _listed("a size", value)
    if len(sides) != 2:
        raise SettingsError("a size must be a list of width and height.")
    return VALUES["width"].read("width", sides[0]), VALUES["height"].read("height", sides[1])


def _subjects(origin: Path) -> tuple[str, ...]:
    """The lines of a family's list of subjects; none where it has no list."""
    path = origin / SUBJECTS_FILE
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f'"{path}" cannot be read: repair or delete it.') from error
    return tuple(line.strip() for line in lines if line.strip())


def _card_values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f'"{path}" cannot be read: repair or delete it.') from error
    if not isinstance(values, dict):
        raise ModelError(f'"{path}" cannot be used, repair or delete it: it must be a JSON object.')
    return values


def _same_files(folder: Path) -> dict[str, str]:
    """Which of a small family's files serve in place of others, as its card says."""
    same = _card_values(folder.parent / CARD_FILE).get("same_files", {})
    return {str(name): str(other) for name, other in same.items()} if isinstance(same, dict) else {}


def _store(weights: WeightStore | Path | str | None, own: Path | None) -> WeightStore:
    if isinstance(weights, WeightStore):
        return weights
    if weights is not None:
        return WeightStore([Path(weights).expanduser()])
    if own is not None:
        return WeightStore([own], may_fetch=False, same=_same_files(own))
    return WeightStore([default_weights_folder()])


class _TemporaryStore(WeightStore):
    """A store whose files vanish with it."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str]) -> None:
        super().__init__([Path(folder.name)], may_fetch=False)
        self._folder = folder


def _random_family(dtype: torch.dtype) -> tuple[Any, ModelCard, WeightStore]:
    from lib_layerdiffusion.hosts.diffusers.tiny import layer_files, tiny_pipeline

    pipeline = tiny_pipeline()
    folder = tempfile.TemporaryDirectory(prefix="layerdiffusion-")
    for name, tensors in layer_files(pipeline.unet):
        save_file(tensors, Path(folder.name) / f"{name}.safetensors")
    families = (Family.SDXL, Family.SD15)
    card = ModelCard(name="random", source=RANDOM_MODEL, families=families, steps=8, guidance=3.0)
    # Newer diffusers warn about every cast, also about one that changes nothing.
    return pipeline if dtype is torch.float32 else pipeline.to(dtype), card, _TemporaryStore(folder)
