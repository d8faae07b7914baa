"""Stage `base`: the text-to-picture UNet and its text encoder, on latents of subjects on grey and in scenes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from lib_layerdiffusion.networks.sharing_run import attend
from lib_layerdiffusion.training.checkpoints import save_whole
from lib_layerdiffusion.training.devices import device_of, fastest_device
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background, pick, premultiply_grey, uniform
from lib_layerdiffusion.training.text import Prompts, new_text_encoder, write_tokenizer
from lib_layerdiffusion.training.vae import save_grid
from lib_layerdiffusion.training.variety import Depictions

UNET_CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    # In UNet2DConditionModel this is the number of heads, whatever its name says.
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
LARGE_SIDE = 256
"""From this side on the UNet has a thin level without attention on top."""
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    # Without effect for this spacing; StableDiffusionPipeline warns about any other value.
    "steps_offset": 1,
}
SCENE_SHARE = 0.07
BLENDED_SHARE = 0.25
"""For how many of the pictures there is one in a scene as well."""


def new_unet(size: int = 128) -> nn.Module:
    """A fresh small UNet2DConditionModel for pictures of `size` pixels a side.

    Attention always sees 16x16 and 8x8 positions of a picture of 128 or 256 pixels. At 256 a level of half the width on
    top makes a step five times as fast as the same three levels would be, and hardly slower than at 128.
    """
    from diffusers import UNet2DConditionModel

    widths, down = (64, 96, 96), ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    if size >= LARGE_SIDE:
        widths, down = (64, *widths), ("DownBlock2D", *down)
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    levels = {"block_out_channels": widths, "down_block_types": down, "up_block_types": up}
    return UNet2DConditionModel(**UNET_CONFIG, **levels, sample_size=size // 8)


def new_scheduler() -> Any:
    """DDIM with v-prediction and a noise schedule that ends in pure noise."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULER)


class PreciseAttention:
    """A diffusers attention processor that computes the attention itself in single precision.

    Under bfloat16 autocast on a CPU the backward pass of torch's fused attention is two to five times slower in
    bfloat16 than in float32 at this family's sizes, and takes more than a third of a step; linear layers stay as they
    are. On a GPU it is the other way round, and attention stays in the precision that it comes in.
    """

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Hidden states [B, N, C] and text [B, M, D] -> [B, N, C]."""
        del attention_mask, options
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        if hidden_states.device.type != "cpu":
            return attn.to_out[0](attend(query, key, value, attn.heads))
        query, key, value = (states.float() for states in (query, key, value))
        with torch.autocast(hidden_states.device.type, enabled=False):
            found = attend(query, key, value, attn.heads)
        return attn.to_out[0](found.to(hidden_states.dtype))


@torch.no_grad()
def encode(vae: nn.Module, pictures: Tensor) -> Tensor:
    """VAE means, on the CPU, of pictures [N, 3, H, W] in [0, 1], in small batches."""
    means = [vae.encode(part.to(device_of(vae)) * 2 - 1).latent_dist.mean.float().cpu() for part in pictures.split(16)]
    return torch.cat(means)


def encode_on_grey(vae: nn.Module, rgba: Tensor) -> Tensor:
    """VAE means of straight RGBA uint8 [N, 4, H, W] shown on mid-grey."""
    return torch.cat([encode(vae, premultiply_grey(part.float() / 255)) for part in rgba.split(64)])


def in_scene(rgba: Tensor, kind: str, generator: Generator) -> tuple[Tensor, Tensor]:
    """A straight RGBA picture uint8 [4, S, S] in a new scene of a kind: (background, blended), [3, S, S] in [0, 1]."""
    picture = rgba.float() / 255
    scene = background(generator, rgba.shape[-1], kind)
    return scene, scene + (picture[:3] - scene) * picture[3:]


def velocity_loss(
    unet: nn.Module,
    alphas: Tensor,
    latents: Tensor,
    text: Tensor,
    generator: Generator,
    *,
    prediction: str = "v_prediction",
) -> Tensor:
    """Mean squared error of the predicted velocity (or, for `prediction` "epsilon", noise) at random times.

    All of it lies on the generator's device.
    """
    times = torch.randint(len(alphas), (len(latents),), generator=generator, device=latents.device)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    signal = alphas[times].sqrt()[:, None, None, None]
    sigma = (1 - alphas[times]).sqrt()[:, None, None, None]
    noisy = (signal * latents + sigma * noise).to(memory_format=torch.channels_last)
    target = noise if prediction == "epsilon" else signal * noise - sigma * latents
    return F.mse_loss(unet(noisy, times, text).sample.float(), target)


class TextSide:
    """Tokenizer and text encoder together: strings in, states [N, L, C] out."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return self.encoder(self._ids(prompts).to(device_of(self.encoder)))[0]

    def numbered(self, prompts: Sequence[str]) -> Callable[[Tensor], Any]:
        """What a call gives, for prompts by their numbers [N] in a list; its tokens lie where the numbers do."""
        kept: dict[torch.device, Tensor] = {}

        def states(numbers: Tensor) -> Any:
            if numbers.device not in kept:
                kept[numbers.device] = self._ids(prompts).to(numbers.device)
            return self.encoder(kept[numbers.device][numbers])[0]

        return states

    def _ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [N, L]."""
        limit = self.tokenizer.model_max_length
        options = {"padding": "max_length", "truncation": True, "max_length": limit, "return_tensors": "pt"}
        return self.tokenizer(list(prompts), **options).input_ids

    def bound(self, unet: nn.Module) -> nn.Module:
        """A UNet that is called with what this text side gives."""
        return unet


@torch.no_grad()
def sample_latents(
    unet: nn.Module, text: TextSide, prompts: Sequence[str], *, side: int, steps: int = 10, seed: int = 0
) -> Tensor:
    """DDIM with classifier-free guidance of 3; returns scaled latents [N, 4, side, side]."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    latents = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed))
    states = text([""] * len(prompts) + list(prompts))
    latents = latents.to(states.device)
    for time in scheduler.timesteps:
        without, with_text = unet(torch.cat([latents] * 2), time, states).sample.float().chunk(2)
        latents = scheduler.step(without + 3 * (with_text - without), time, latents).prev_sample
    return latents


class BaseStage:
    """Trains UNet and text encoder together, on many pictures of each subject.

    words: what the tokenizer knows, see `text.vocabulary`. folder: where latents are kept, computed once.
    """

    def __init__(self, pictures: Depictions, vae: nn.Module, words: tuple[str, ...], folder: Path) -> None:
        self.vae = vae.requires_grad_(requires_grad=False).eval()
        self.unet = new_unet(pictures.rgba.shape[-1]).to(memory_format=torch.channels_last)
        self.unet.set_attn_processor(PreciseAttention())
        tokenizer = write_tokenizer(folder / "tokenizer", words)
        self.text = TextSide(tokenizer, new_text_encoder(tokenizer))
        self.modules = {"unet": self.unet, "text_encoder": self.text.encoder}
        self.frozen = (self.vae,)
        self._encode(pictures, folder)
        self.alphas = new_scheduler().alphas_cumprod

    def _encode(self, pictures: Depictions, folder: Path) -> None:
        """Latents of subjects on grey and in scenes, computed once and kept beside the checkpoint."""
        cache = folder / "latents.pt"
        if not cache.exists():
            self.vae.to(fastest_device())
            generator = torch.Generator().manual_seed(1)
            rows = torch.randperm(len(pictures), generator=generator)[: max(1, int(len(pictures) * BLENDED_SHARE))]
            kinds = [pick(generator, len(BACKGROUNDS)) for _ in rows]
            scenes = zip(rows.tolist(), kinds, strict=True)
            blends = [in_scene(pictures.rgba[row], list(BACKGROUNDS)[kind], generator)[1] for row, kind in scenes]
            grey = encode_on_grey(self.vae, pictures.rgba)
            kept = {"grey": grey, "words": list(pictures.words), "blends": encode(self.vae, torch.stack(blends))}
            kept |= {"rows": rows, "kinds": torch.tensor(kinds), "scale": 1 / grey.std()}
            save_whole(kept, cache)
        kept = torch.load(cache, weights_only=True)
        self.scale = float(kept["scale"])
        self.grey, self.blends = kept["grey"] * self.scale, kept["blends"] * self.scale
        self.words: list[str] = kept["words"]
        self.prompts, scenes = Prompts(), list(BACKGROUNDS)
        self.plain = torch.tensor([self.prompts.add(words) for words in self.words])
        pairs = zip(kept["rows"].tolist(), kept["kinds"].tolist(), strict=True)
        self.staged = torch.tensor([self.prompts.add(self.words[row], scenes[kind]) for row, kind in pairs])
        self.states = self.text.numbered(self.prompts.texts)

    def rescale(self, scale: float) -> None:
        """Use another scaling factor than the one that follows from these pictures."""
        self.grey, self.blends = (latents * (scale / self.scale) for latents in (self.grey, self.blends))
        self.scale = scale

    def compile(self) -> None:
        """Compile the UNet, where the time goes."""
        self.unet.compile(dynamic=False)

    def draw(self, batch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Scaled latents [N, 4, h, w] of a mix of grey pictures and scenes, and the first numbers of their prompts."""
        row, blend = (
            torch.randint(len(latents), (batch,), generator=generator, device=generator.device)
            for latents in (self.grey, self.blends)
        )
        in_scenes = uniform(generator, batch) < SCENE_SHARE
        latents = torch.where(in_scenes[:, None, None, None], self.blends[blend], self.grey[row])
        return latents, torch.where(in_scenes, self.staged[blend], self.plain[row])

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Velocity error on what is drawn, text dropped in a tenth."""
        latents, first = self.draw(batch, generator)
        numbers = self.prompts.draw(first, generator)
        return velocity_loss(self.unet, self.alphas, latents, self.states(numbers), generator), {}

    def sample(self, path: Path) -> None:
        """Twenty prompts, decoded by the plain VAE."""
        known = list(dict.fromkeys(self.words))
        chosen = known[:: max(1, len(known) // 20)][:20]
        latents = sample_latents(self.unet, self.text, chosen, side=self.grey.shape[-1])
        decoded = torch.cat([self.vae.decode(part / self.scale).sample for part in latents.split(4)]).cpu() / 2 + 0.5
        save_grid(path, list(decoded.split(10)))
