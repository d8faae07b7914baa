"""Somebody else's SD1.5 or SDXL pipeline folder as the base of the layer stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training.base import TextSide
from lib_layerdiffusion.training.devices import device_of


@dataclass(frozen=True)
class XlText:
    """SDXL's two conditions: states [N, L, 2048] and the pooled vector [N, 1280]."""

    states: Tensor
    pooled: Tensor

    @property
    def device(self) -> torch.device:
        """Where both lie."""
        return self.states.device


class XlTextSide(TextSide):
    """Both of SDXL's tokenizers and text encoders together: strings in, `XlText` out."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module]) -> None:
        super().__init__(tokenizers[0], nn.ModuleList(encoders))
        self.pairs = tuple(zip(tokenizers, encoders, strict=True))

    def __call__(self, prompts: Sequence[str]) -> Any:
        """Text of `prompts`; as in SDXL the states are those before each encoder's last layer."""
        states: list[Tensor] = []
        pooled = torch.empty(0)
        for tokenizer, encoder in self.pairs:
            tokens = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                return_tensors="pt",
            )  # fmt: skip
            found = encoder(tokens.input_ids.to(device_of(encoder)), output_hidden_states=True)
            states.append(found.hidden_states[-2])
            pooled = found[0]
        return XlText(torch.cat(states, dim=-1), pooled)

    def numbered(self, prompts: Sequence[str]) -> Callable[[Tensor], Any]:
        """What a call gives, for prompts by their numbers; tokenized as they are drawn."""
        return lambda numbers: self([prompts[number] for number in numbers.tolist()])

    def bound(self, unet: nn.Module) -> nn.Module:
        """A UNet that is called with an `XlText`."""
        return XlUnet(unet)


class XlUnet(nn.Module):
    """An SDXL UNet that takes its text as an `XlText`, for pictures that were neither scaled nor cropped."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, time: Tensor, text: XlText) -> object:
        height, width = (8 * side for side in latents.shape[-2:])
        sizes = latents.new_tensor([height, width, 0, 0, height, width]).expand(len(latents), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes}
        return self.unet(latents, time, text.states, added_cond_kwargs=added)


def pipeline_base(folder: Path) -> tuple[nn.Module, TextSide, float]:
    """UNet and text side of an SD1.5- or SDXL-style folder, frozen, and the scaling factor of their latents.

    Raises:
        SettingsError: the folder holds no such pipeline.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    if not (folder / "unet" / "config.json").exists():
        raise SettingsError(f"{folder} is no diffusers folder of an SD1.5 or SDXL pipeline: give one for --pipeline.")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float()
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float()
    text = TextSide(tokenizer, encoder)
    if (folder / "text_encoder_2").is_dir():
        second = CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder_2").float()
        second_tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer_2")
        text = XlTextSide((tokenizer, second_tokenizer), (encoder, second))
    for module in (unet, text.encoder):
        module.requires_grad_(requires_grad=False).eval()
    scale = float(AutoencoderKL.load_config(folder, subfolder="vae").get("scaling_factor", 0.18215))
    return unet, text, scale


def pipeline_vae(folder: Path) -> nn.Module:
    """The folder's VAE in single precision."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder, subfolder="vae").float()
