"""Reading an exported family back into a stage's modules, so that training can go on from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.base import TextSide
from lib_layerdiffusion.training.layers import Difference, LayerStage, LowRank
from lib_layerdiffusion.training.sharing import SharingStage
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm

_FILES = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def scaling_factor(family: Path) -> float:
    """The scaling factor of a family's latents."""
    return float(json.loads((family / "vae" / "config.json").read_text(encoding="utf-8"))["scaling_factor"])


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of one file of a family, in single precision.

    Raises:
        SettingsError: the family has no such file.
    """
    if not path.exists():
        raise SettingsError(f"There is no {path.name} in {path.parent}: name an exported family, such as models/demo.")
    return {key: value.float() for key, value in load_file(path).items()}


def _text_name(key: str, own: Mapping[str, Tensor]) -> str:
    """A text encoder's key as this release of transformers names it: 5 left out the `text_model.` in front."""
    bare = key.removeprefix("text_model.")
    return bare if bare in own else f"text_model.{bare}"


def load_modules(family: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load `vae`, `unet` and `text_encoder` from a family into modules of these names."""
    for name, module in modules.items():
        state = read(family / _FILES[name])
        if name == "text_encoder":
            state = {_text_name(key, module.state_dict()): value for key, value in state.items()}
        # Transformers' releases differ in whether a CLIP file lists its positions.
        buffers = {key: value for key, value in module.state_dict().items() if key.endswith("position_ids")}
        try:
            module.load_state_dict({**buffers, **{key: state[key] for key in state if key in module.state_dict()}})
        except RuntimeError as error:
            raise SettingsError(f"The {name} in {family} has other sizes or words than this recipe's.") from error


def tokenizer(family: Path) -> Any:
    """A family's own tokenizer."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(family, subfolder="tokenizer")


@torch.no_grad()
def load_unet(family: Path, unet: nn.Module) -> None:
    """Load a family's UNet, also into one that has levels on top of the family's.

    Then what fits is taken: most of the inner levels. What depends on the widths of the new ones stays fresh.
    """
    state, own = read(family / _FILES["unet"]), unet.state_dict()
    levels = {len({key.split(".")[1] for key in keys if key.startswith("down_blocks.")}) for keys in (own, state)}
    added = max(levels) - min(levels)
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "down_blocks":
            parts[1] = str(int(parts[1]) + added)
        target = own.get(".".join(parts))
        if target is not None and target.shape == value.shape:
            target.copy_(value)
        elif not added:
            raise SettingsError(f"The unet in {family} has other sizes than this recipe's.")


@torch.no_grad()
def load_text(family: Path, text: TextSide) -> None:
    """Load a family's text encoder where the words may be others: tokens that both know keep their meaning."""
    known, state = tokenizer(family).get_vocab(), text.encoder.state_dict()
    for key, value in read(family / _FILES["text_encoder"]).items():
        if not key.endswith("token_embedding.weight"):
            state[_text_name(key, state)].copy_(value)
            continue
        for token, row in text.tokenizer.get_vocab().items():
            if token in known:
                state[_text_name(key, state)][row].copy_(value[known[token]])


def load_transparency(family: Path, stage: TransparencyStage) -> None:
    """Load E, its training gain taken out of the last convolution again, and D."""
    encoder = read(family / "layers" / "vae_transparent_encoder.safetensors")
    last = max(int(key.split(".")[1]) for key in encoder)
    for part in ("weight", "bias"):
        encoder[f"blocks.{last}.{part}"] /= stage.gain
    stage.encoder.load_state_dict(encoder)
    stage.decoder.load_state_dict(read(family / "layers" / "vae_transparent_decoder.safetensors"))


@torch.no_grad()
def load_layer(family: Path, stage: LayerStage | SharingStage) -> None:
    """Load a method's file into its stage; without it, or where it is for another UNet, the stage stays fresh."""
    path = family / "layers" / f"{stage.recipe.file}.safetensors"
    if not path.exists():
        return
    tensors, targets = read(path), _targets(stage)
    if tensors.keys() == targets.keys() and all(tensors[key].shape == value.shape for key, value in targets.items()):
        for key, value in targets.items():
            value.copy_(tensors[key])


def _targets(stage: LayerStage | SharingStage) -> dict[str, Tensor]:
    """A stage's own tensors by the names that they have in its file."""
    if isinstance(stage, SharingStage):
        return stage.sharing.state_dict()
    names = diffusers_to_ldm(stage.unet.config)
    found: dict[str, Tensor] = {}
    for key, change in stage.changes.items():
        root = f"diffusion_model.{names[key]}::"
        if isinstance(change, LowRank):
            found |= {f"{root}lora::0": change.up, f"{root}lora::1": change.down}
        elif isinstance(change, Difference):
            found[f"{root}diff::0"] = change.change
    return found
