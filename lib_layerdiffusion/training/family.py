"""Where a family's stages keep their results, how to load them again, and how to export them for use."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_layerdiffusion.training.base import BaseStage, TextSide, new_scheduler, new_unet
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.layers import RECIPES, LayerStage, paired_latents, published_keys
from lib_layerdiffusion.training.loop import LoopSettings, TrainingLoop, load_average
from lib_layerdiffusion.training.text import demo_subjects, new_text_encoder, write_tokenizer
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.training.vae import VaeStage, icons_tensor, new_vae


@dataclass(frozen=True)
class Workshop:
    """A training folder: `data` holds the set, `runs` one folder a stage."""

    data: Path
    runs: Path
    subjects: tuple[str, ...] = demo_subjects()

    def vae(self) -> nn.Module:
        """The trained VAE, frozen."""
        vae = new_vae()
        load_average(self.runs / "vae", {"vae": vae})
        return vae.requires_grad_(requires_grad=False).eval()

    def base(self) -> tuple[nn.Module, TextSide, float]:
        """The trained UNet and text side, frozen, and the scaling factor of its latents."""
        folder = self.runs / "base"
        tokenizer = write_tokenizer(folder / "tokenizer", self.subjects)
        unet, encoder = new_unet(), new_text_encoder(tokenizer)
        load_average(folder, {"unet": unet, "text_encoder": encoder})
        scale = float(torch.load(folder / "latents.pt", weights_only=True)["scale"])
        for module in (unet, encoder):
            module.requires_grad_(requires_grad=False).eval()
        return unet.to(memory_format=torch.channels_last), TextSide(tokenizer, encoder), scale

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

    def layer(self, method: str) -> LayerStage:
        """A layer stage with fresh changes on the base."""
        unet, text, scale = self.base()
        return LayerStage(RECIPES[method], unet, text, self.pairs(), scale, self.subjects)

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
        TrainingLoop(stage, settings).run(lambda line: print(line, flush=True))  # noqa: T201 - the progress bar

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
        for method, recipe in RECIPES.items():
            if (self.runs / method / "checkpoint.pt").exists():
                layer = self.layer(method)
                load_average(self.runs / method, layer.modules)
                tensors = published_keys(layer.changes, layer.unet.config)
                save_file(tensors, layers / f"{recipe.file}.safetensors")
        (target / "subjects.txt").write_text("".join(f"{name.replace('-', ' ')}\n" for name in self.subjects))


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
