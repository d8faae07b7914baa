"""Where a family's stages keep their results, how to load them again, and how to export them for use."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.training import export, pipelines, start
from lib_layerdiffusion.training.base import BaseStage, PreciseAttention, TextSide, new_scheduler, new_unet
from lib_layerdiffusion.training.checkpoints import CHECKPOINT, save_whole
from lib_layerdiffusion.training.data import IconSet, picture_size
from lib_layerdiffusion.training.layers import RECIPES, LayerStage, paired_latents
from lib_layerdiffusion.training.loop import LoopSettings, Stage, TrainingLoop, load_average
from lib_layerdiffusion.training.matter import MATTER_NAMES
from lib_layerdiffusion.training.offset import OffsetStage
from lib_layerdiffusion.training.sharing import SHARING_RECIPES, SharingStage
from lib_layerdiffusion.training.text import demo_subjects, new_text_encoder, vocabulary, write_tokenizer
from lib_layerdiffusion.training.transparency import TransparencyStage
from lib_layerdiffusion.training.vae import VaeStage, new_vae
from lib_layerdiffusion.training.variety import Depictions, depictions

PAIRS_EACH = 12
"""At most so many pictures of a subject are put into scenes for the layers."""


@dataclass(frozen=True)
class Workshop:
    """A training folder: `data` holds the set, `runs` one folder a stage.

    pipeline: an SD1.5- or SDXL-style diffusers folder whose VAE, UNet and text encoder take the place of the first two
    stages. start: an exported family that stands in for every stage that has no checkpoint in `runs`, and from which a
    fresh stage goes on. each: pictures of every subject. keep_latents: of the family started from, so that stages need
    not wait for the VAE, of which then only the way back is trained.
    """

    data: Path
    runs: Path
    subjects: tuple[str, ...] = demo_subjects()
    pipeline: Path | None = None
    start: Path | None = None
    each: int = 16
    keep_latents: bool = False

    @property
    def size(self) -> int:
        """Pixels a side of the family's pictures: those of the data set."""
        return picture_size(self.data)

    @cached_property
    def pictures(self) -> Depictions:
        """What the base model and the layers are trained on."""
        return depictions(IconSet.load(self.data), self.subjects, self.each)

    def _has(self, stage: str) -> bool:
        return (self.runs / stage / CHECKPOINT).exists()

    def _load(self, stage: str, modules: Mapping[str, nn.Module]) -> None:
        """A stage's trained weights, from its checkpoint or else from the family to start from."""
        if self.start is not None and not self._has(stage):
            start.load_modules(self.start, modules)
        else:
            load_average(self.runs / stage, modules)

    def vae(self) -> nn.Module:
        """The VAE, frozen: the pipeline's or the trained one."""
        if self.pipeline is not None:
            vae = pipelines.pipeline_vae(self.pipeline)
        else:
            vae = new_vae(self.size)
            if self.start is not None:
                start.load_modules(self.start, {"vae": vae})
            if self.start is None or self._has("vae"):
                load_average(self.runs / "vae", {"vae": vae})
        return vae.requires_grad_(requires_grad=False).eval()

    def base(self) -> tuple[nn.Module, TextSide, float]:
        """The UNet and text side, frozen, and the scaling factor of their latents."""
        if self.pipeline is not None:
            return pipelines.pipeline_base(self.pipeline)
        if self.start is not None and not self._has("base") and not self._has("offset"):
            tokenizer = start.tokenizer(self.start)
        else:
            tokenizer = write_tokenizer(self.runs / "base" / "tokenizer", vocabulary(self.subjects))
        unet, encoder = new_unet(self.size), new_text_encoder(tokenizer)
        # A base that went on is the base, whichever of the two the layers were begun on.
        self._load("offset" if self._has("offset") else "base", {"unet": unet, "text_encoder": encoder})
        for module in (unet, encoder):
            module.requires_grad_(requires_grad=False).eval()
        unet.set_attn_processor(PreciseAttention())
        return unet.to(memory_format=torch.channels_last), TextSide(tokenizer, encoder), self._scale()

    def _scale(self) -> float:
        """The scaling factor of the family's latents; while the VAE is that of the family started from, its own."""
        if self.start is not None and (self.keep_latents or not self._has("vae")):
            return start.scaling_factor(self.start)
        return float(torch.load(self.runs / "base" / "latents.pt", weights_only=True)["scale"])

    def scheduler(self) -> Any:
        """The noise schedule to train on: the pipeline's or the family's."""
        if self.pipeline is None:
            return new_scheduler()
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_pretrained(self.pipeline, subfolder="scheduler")

    def transparency(self) -> TransparencyStage:
        """Encoder and decoder as trained, with the VAE."""
        stage = self._new_transparency()
        self._load_transparency(stage)
        if self._has("decoder"):
            load_average(self.runs / "decoder", {"decoder": stage.decoder, "judge": stage.judge})
        return stage

    def _new_transparency(self, *, fixed_encoder: bool = False) -> TransparencyStage:
        # Files for somebody else's pipeline are to drop into every host, so they have the published sizes.
        return TransparencyStage(self.data, self.vae(), small=self.pipeline is None, fixed_encoder=fixed_encoder)

    def _load_transparency(self, stage: TransparencyStage) -> None:
        if self.start is not None and not self._has("transparency"):
            start.load_transparency(self.start, stage)
        else:
            networks = {"encoder": stage.encoder, "decoder": stage.decoder, "judge": stage.judge}
            load_average(self.runs / "transparency", networks)

    @cached_property
    def pairs(self) -> dict[str, Any]:
        """Latents for the layer stages, computed once."""
        path = self.runs / "pairs.pt"
        if not path.exists():
            pictures = self.pictures.fewer(self.each, PAIRS_EACH)
            # Two tracks of a schedule can be here at the same time.
            mine = path.with_name(f"pairs-{os.getpid()}.pt")
            save_whole(paired_latents(self.transparency(), pictures), mine)
            mine.replace(path)
        return torch.load(path, weights_only=True)

    def layer(self, method: str) -> LayerStage | SharingStage:
        """A layer stage with fresh changes on the base.

        Raises:
            SettingsError: an attention-sharing method is to be trained on an SDXL pipeline.
        """
        unet, text, scale = self.base()
        if method in SHARING_RECIPES:
            if isinstance(text, pipelines.XlTextSide):
                raise SettingsError("The attention-sharing methods are made for SD1.5: take a method of SDXL's.")
            stage = SharingStage(SHARING_RECIPES[method], unet, text, self.pairs, scale)
        else:
            stage = LayerStage(RECIPES[method], unet, text, self.pairs, scale)
        stage.use_schedule(self.scheduler())
        return stage

    def stage(self, name: str, folder: Path) -> Stage:
        """One stage by the command's name for it, or a layer method, started from a family where one is given."""
        origin = self.start
        if name == "vae":
            vae = VaeStage(self.data, fixed_encoder=self.keep_latents)
            if origin is not None:
                start.load_modules(origin, {"vae": vae.vae})
            return vae
        if name == "base":
            base = BaseStage(self.pictures, self.vae(), vocabulary(self.subjects), folder)
            self._start_base(base)
            return base
        if name == "offset":
            return self._offset()
        if name == "transparency":
            transparency = self._new_transparency()
            if origin is not None:
                start.load_transparency(origin, transparency)
            return transparency
        if name == "decoder":
            alone = self._new_transparency(fixed_encoder=True)
            self._load_transparency(alone)
            return alone
        layer = self.layer(name)
        if origin is not None:
            start.load_layer(origin, layer)
        return layer

    def _start_base(self, base: BaseStage) -> None:
        if self.start is not None:
            base.rescale(self._scale())
            start.load_unet(self.start, base.unet)
            start.load_text(self.start, base.text)

    def _offset(self) -> OffsetStage:
        if self.pipeline is not None:
            raise SettingsError("The stage offset is for a family's own base: leave out --pipeline, or train layers.")
        folder = self.runs / "base"
        if self.start is None and not self._has("base"):
            raise SettingsError(f"There is no checkpoint in {folder}; run the stage before this one first.")
        stage = OffsetStage(self.pictures, self.vae(), vocabulary(self.subjects), folder, self.pairs)
        self._start_base(stage)
        if self._has("base"):
            load_average(folder, stage.modules)
        return stage

    def train(
        self,
        stage_name: str,
        settings: LoopSettings,
        report: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        """Run one stage to the end of its budget."""
        torch.manual_seed(settings.seed)
        settings.folder.mkdir(parents=True, exist_ok=True)
        stage = self.stage(stage_name, settings.folder)
        TrainingLoop(stage, settings).run(report)

    def export(self, target: Path) -> None:
        """Write the pipeline, the transparent networks and every trained layer file, all fp16, under `target`.

        For somebody else's pipeline only the files that training made are written.
        """
        layers = target / "layers"
        layers.mkdir(parents=True, exist_ok=True)
        export.write_transparency(self.transparency(), layers)
        for method in (*RECIPES, *SHARING_RECIPES):
            if self._has(method):
                layer = self.layer(method)
                load_average(self.runs / method, layer.modules)
                export.write_layer(layer, layers)
        if self.pipeline is None:
            unet, text, scale = self.base()
            export.write_pipeline(target, self.vae(), unet, text, scale)
            export.write_card(target, (*self.subjects, *MATTER_NAMES), self.size)
