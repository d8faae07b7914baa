"""Where a family's stages keep their results, how to load them again, and how to export them for use."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_layerdiffusion.training.base import BaseStage, PreciseAttention, TextSide, new_scheduler, new_unet
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.layers import RECIPES, LayerStage, paired_latents
from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop, load_average
from lib_layerdiffusion.training.sharing import SHARING_RECIPES, SharingStage
from lib_layerdiffusion.training.text import demo_subjects, demo_words, new_text_encoder, write_tokenizer
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.training.vae import VaeStage, icons_tensor, new_vae

CARD: dict[str, Any] = {
    "name": "demo",
    "steps": 20,
    "guidance": 3.0,
    # E and D are the same for both kinds of methods; the published names differ.
    "same_files": {f"layer_sd15_{name}": name for name in ("vae_transparent_encoder", "vae_transparent_decoder")},
}
"""What the diffusers host is told of an exported family."""


@dataclass(frozen=True)
class Workshop:
    """A training folder: `data` holds the set, `runs` one folder a stage."""

    data: Path
    runs: Path
    subjects: tuple[str, ...] = demo_subjects()
    pipeline: Path | None = None
    """An SD1.5-style diffusers folder whose VAE, UNet and text encoder take the place of the first two stages."""

    def vae(self) -> nn.Module:
        """The VAE, frozen: the pipeline's or the trained one."""
        if self.pipeline is not None:
            from diffusers import AutoencoderKL

            vae = AutoencoderKL.from_pretrained(self.pipeline, subfolder="vae").float()
            return vae.requires_grad_(requires_grad=False).eval()
        vae = new_vae()
        load_average(self.runs / "vae", {"vae": vae})
        return vae.requires_grad_(requires_grad=False).eval()

    def base(self) -> tuple[nn.Module, TextSide, float]:
        """The UNet and text side, frozen, and the scaling factor of their latents."""
        if self.pipeline is not None:
            return self._pipeline_base(self.pipeline)
        folder = self.runs / "base"
        tokenizer = write_tokenizer(folder / "tokenizer", tuple(dict.fromkeys((*self.subjects, *demo_words()))))
        unet, encoder = new_unet(), new_text_encoder(tokenizer)
        load_average(folder, {"unet": unet, "text_encoder": encoder})
        scale = float(torch.load(folder / "latents.pt", weights_only=True)["scale"])
        for module in (unet, encoder):
            module.requires_grad_(requires_grad=False).eval()
        unet.set_attn_processor(PreciseAttention())
        return unet.to(memory_format=torch.channels_last), TextSide(tokenizer, encoder), scale

    def _pipeline_base(self, folder: Path) -> tuple[nn.Module, TextSide, float]:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float()
        encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float()
        for module in (unet, encoder):
            module.requires_grad_(requires_grad=False).eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        scale = float(AutoencoderKL.load_config(folder, subfolder="vae").get("scaling_factor", 0.18215))
        return unet, TextSide(tokenizer, encoder), scale

    def scheduler(self) -> Any:
        """The noise schedule to train on: the pipeline's or the family's."""
        if self.pipeline is None:
            return new_scheduler()
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_pretrained(self.pipeline, subfolder="scheduler")

    def transparency(self) -> TransparencyStage:
        """Encoder and decoder as trained, with the VAE."""
        stage = TransparencyStage(self.data, self.vae())
        load_average(self.runs / "transparency", stage.modules)
        return stage

    def pairs(self) -> dict[str, Tensor]:
        """Latents for the layer stages, computed once."""
        path = self.runs / "pairs.pt"
        if not path.exists():
            icons = IconSet.load(self.data, style="3d").only(list(self.subjects))
            torch.save(paired_latents(self.transparency(), icons_tensor(icons)), path)
        return torch.load(path, weights_only=True)

    def layer(self, method: str) -> LayerStage | SharingStage:
        """A layer stage with fresh changes on the base."""
        unet, text, scale = self.base()
        if method in SHARING_RECIPES:
            stage = SharingStage(SHARING_RECIPES[method], unet, text, self.pairs(), scale, self.subjects)
        else:
            stage = LayerStage(RECIPES[method], unet, text, self.pairs(), scale, self.subjects)
        stage.use_schedule(self.scheduler())
        return stage

    def train(self, stage_name: str, settings: LoopSettings) -> None:
        """Run one stage (`vae`, `base`, `transparency` or a layer method) to the end of its budget."""
        torch.manual_seed(settings.seed)
        folder = settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        if stage_name == "vae":
            stage = VaeStage(self.data)
        elif stage_name == "base":
            stage = BaseStage(self.data, self.vae(), self.subjects, folder)
        elif stage_name == "transparency":
            stage = TransparencyStage(self.data, self.vae())
        else:
            stage = self.layer(stage_name)
        TrainingLoop(stage, settings).run(lambda line: print(line, flush=True))

    def export(self, target: Path) -> None:
        """Write the pipeline, the transparent networks and every trained layer file, all fp16, under `target`."""
        from diffusers import StableDiffusionPipeline

        unet, text, scale = self.base()
        vae = self.vae()
        vae.register_to_config(scaling_factor=scale, force_upcast=False)
        pipeline = StableDiffusionPipeline(
            vae=vae.half(), text_encoder=text.encoder.half(), tokenizer=text.tokenizer, unet=unet.half(),
            scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(target)
        config = target / "text_encoder" / "config.json"
        # Stored in half precision, used in single: newer transformers take the dtype from here.
        config.write_text(json.dumps({**json.loads(config.read_text()), "torch_dtype": "float32"}, indent=2) + "\n")
        layers = target / "layers"
        layers.mkdir(exist_ok=True)
        stage = self.transparency()
        write_transparency(stage, layers)
        for method in (*RECIPES, *SHARING_RECIPES):
            if (self.runs / method / "checkpoint.pt").exists():
                layer = self.layer(method)
                load_average(self.runs / method, layer.modules)
                save_file(layer.published(), layers / f"{layer.recipe.file}.safetensors")
        (target / "subjects.txt").write_text("".join(f"{name.replace('-', ' ')}\n" for name in self.subjects))
        (target / "layerdiffusion.json").write_text(json.dumps(CARD, indent=2) + "\n")


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
