"""Writing a trained family as its users get it: a diffusers folder with layer files, everything in half precision."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_layerdiffusion.training.base import TextSide, new_scheduler
from lib_layerdiffusion.training.layers import LayerStage
from lib_layerdiffusion.training.matter import LOCKS, TINTS
from lib_layerdiffusion.training.sharing import SharingStage
from lib_layerdiffusion.training.synthesis import BACKGROUNDS
from lib_layerdiffusion.training.text import GROUND, TEMPLATES
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.training.variety import FLAT_WORDS, HUES

CARD: dict[str, Any] = {
    "name": "demo",
    "steps": 20,
    # More sharpens nothing, and makes seeds alike; so does guidance of the first steps.
    "guidance": 2.0,
    "guidance_start": 0.2,
    # D is trained on all eight views, as the published one is used.
    "decode_passes": 8,
    # E and D are the same for both kinds of methods; the published names differ.
    "same_files": {f"layer_sd15_{name}": name for name in ("vae_transparent_encoder", "vae_transparent_decoder")},
}
"""What the diffusers host is told of an exported family."""


def write_pipeline(target: Path, vae: nn.Module, unet: nn.Module, text: TextSide, scale: float) -> None:
    """Write VAE, UNet, text encoder, tokenizer and schedule as a StableDiffusionPipeline's folder."""
    from diffusers import StableDiffusionPipeline

    vae.register_to_config(scaling_factor=scale, force_upcast=False)
    # Training lays weights out with the channels last, which safetensors files cannot hold.
    vae, unet = (network.half().to(memory_format=torch.contiguous_format) for network in (vae, unet))
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text.encoder.half(), tokenizer=text.tokenizer, unet=unet,
        scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(target)
    _name_as_published(target / "text_encoder" / "model.safetensors")
    _tokenizer_as_published(target / "tokenizer")
    config = target / "text_encoder" / "config.json"
    # Stored in half precision, used in single: transformers take the dtype from here, by its new name or its old one.
    told = {key: value for key, value in json.loads(config.read_text()).items() if key != "dtype"}
    config.write_text(json.dumps({**told, "torch_dtype": "float32"}, indent=2) + "\n")


def _name_as_published(path: Path) -> None:
    """Give a text encoder's tensors the names that every published checkpoint has, whichever release wrote them."""
    state = load_file(path)
    named = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}
    save_file(named, path, metadata={"format": "pt"})


def _tokenizer_as_published(folder: Path) -> None:
    """Write a tokenizer's words and merges in the two files that every release of transformers reads.

    From its fifth on it writes another one in their place, which hosts with older ones do not take.
    """
    whole = folder / "tokenizer.json"
    if not whole.exists():
        return
    model = json.loads(whole.read_text())["model"]
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    whole.unlink()


def write_transparency(stage: TransparencyStage, folder: Path) -> None:
    """Write E (its training gain folded into the last convolution) and D under their published file names."""
    encoder = {key: value.detach().clone() for key, value in stage.encoder.state_dict().items()}
    last = max(int(key.split(".")[1]) for key in encoder)
    for part in ("weight", "bias"):
        encoder[f"blocks.{last}.{part}"] *= stage.gain
    decoder = stage.decoder.state_dict()
    for name, state in (("vae_transparent_encoder", encoder), ("vae_transparent_decoder", decoder)):
        halved = {key: value.detach().half().contiguous() for key, value in state.items()}
        save_file(halved, folder / f"{name}.safetensors")


def write_layer(layer: LayerStage | SharingStage, folder: Path) -> None:
    """Write a method's file under its published name."""
    save_file(layer.published(), folder / f"{layer.recipe.file}.safetensors")


def write_card(target: Path, subjects: Iterable[str], size: int) -> None:
    """Write what the family knows, how it is best run, and that it makes pictures of its own size only."""
    (target / "subjects.txt").write_text("".join(f"{name.replace('-', ' ')}\n" for name in subjects))
    asked = (text.format("") for text in (*FLAT_WORDS, *TEMPLATES, GROUND.format("")))
    words = dict.fromkeys((*BACKGROUNDS, *HUES, *TINTS, *LOCKS, *(word for text in asked for word in text.split())))
    known = {"sizes": [[size, size]], "words": [word for word in words if word]}
    (target / "layerdiffusion.json").write_text(json.dumps({**CARD, **known}, indent=2) + "\n")
