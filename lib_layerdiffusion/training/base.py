"""Stage `base`: the text-to-picture UNet and its text encoder, on latents of subjects on grey and in scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from lib_layerdiffusion.networks.sharing_run import attend
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.loop import device_of
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, background, pick, premultiply_grey, uniform
from lib_layerdiffusion.training.text import demo_words, new_text_encoder, prompt, write_tokenizer
from lib_layerdiffusion.training.vae import icons_tensor, save_grid

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 96, 96),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 128,
    # In UNet2DConditionModel this is the number of heads, whatever its name says.
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
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
EMPTY_TEXT_SHARE = 0.1
SCENE_SHARE = 0.07
# How often each variant of `augmented` is drawn: as it is, mirrored, shifted, both.
VARIANT_SHARES = (0.6, 0.2, 0.2, 0.0)


def new_unet(in_channels: int = 4) -> nn.Module:
    """A fresh small UNet2DConditionModel."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{**UNET_CONFIG, "in_channels": in_channels})


def new_scheduler() -> Any:
    """DDIM with v-prediction and a noise schedule that ends in pure noise."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULER)


def shifted(rgba: Tensor, dy: int, dx: int) -> Tensor:
    """Move pictures by whole pixels; the margin wraps only transparency and padding."""
    return rgba.roll((dy, dx), dims=(-2, -1))


def augmented(icons: Tensor) -> tuple[Tensor, Tensor]:
    """Each icon as drawn, mirrored, and a little shifted: ([N*4, 4, S, S] float, [N*4] row of the icon)."""
    straight = icons.float() / 255
    variants = [straight, straight.flip(-1), shifted(straight, 0, 4), shifted(straight.flip(-1), 0, -4)]
    return torch.cat(variants), torch.arange(len(icons)).repeat(len(variants))


class PreciseAttention:
    """A diffusers attention processor that computes the attention itself in single precision.

    Under bfloat16 autocast on a CPU the backward pass of torch's fused attention is two to five times slower in
    bfloat16 than in float32 at this family's sizes, and takes more than a third of a step; linear layers stay as they
    are.
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
        query, key, value = (
            layer(states).float()
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        )
        with torch.autocast(hidden_states.device.type, enabled=False):
            found = attend(query, key, value, attn.heads)
        return attn.to_out[0](found.to(hidden_states.dtype))


@torch.no_grad()
def encode(vae: nn.Module, pictures: Tensor) -> Tensor:
    """VAE means of pictures in [0, 1], in small batches."""
    means = [vae.encode(part * 2 - 1).latent_dist.mean.float() for part in pictures.split(32)]
    return torch.cat(means)


def velocity_loss(
    unet: nn.Module,
    alphas: Tensor,
    latents: Tensor,
    text: Tensor,
    generator: Generator,
    *,
    prediction: str = "v_prediction",
) -> Tensor:
    """Mean squared error of the predicted velocity (or, for `prediction` "epsilon", noise) at random times."""
    times = torch.randint(len(alphas), (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator).to(text.device)
    latents, alphas, times = (x.to(text.device) for x in (latents, alphas, times))
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
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return self.encoder(tokens.input_ids.to(device_of(self.encoder)))[0]

    def bound(self, unet: nn.Module) -> nn.Module:
        """A UNet that is called with what this text side gives."""
        return unet


@torch.no_grad()
def sample_latents(
    unet: nn.Module, text: TextSide, prompts: Sequence[str], *, steps: int = 10, guidance: float = 3.0, seed: int = 0
) -> Tensor:
    """DDIM with classifier-free guidance; returns scaled latents [N, 4, S/8, S/8]."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    side = UNET_CONFIG["sample_size"]
    latents = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed))
    states = text([""] * len(prompts) + list(prompts))
    latents = latents.to(states.device)
    for time in scheduler.timesteps:
        without, with_text = unet(torch.cat([latents] * 2), time, states).sample.float().chunk(2)
        latents = scheduler.step(without + guidance * (with_text - without), time, latents).prev_sample
    return latents


class BaseStage:
    """Trains UNet and text encoder together from nothing."""

    def __init__(self, data: Path, vae: nn.Module, subjects: tuple[str, ...], folder: Path) -> None:
        self.vae = vae.requires_grad_(requires_grad=False).eval()
        self.subjects = subjects
        self.unet = new_unet().to(memory_format=torch.channels_last)
        self.unet.set_attn_processor(PreciseAttention())
        tokenizer = write_tokenizer(folder / "tokenizer", tuple(dict.fromkeys((*subjects, *demo_words()))))
        self.text = TextSide(tokenizer, new_text_encoder(tokenizer))
        self.modules = {"unet": self.unet, "text_encoder": self.text.encoder}
        self.frozen = (self.vae,)
        icons = IconSet.load(data, style="3d").only(list(subjects))
        self._encode(icons_tensor(icons), folder)
        self.alphas = new_scheduler().alphas_cumprod

    def _encode(self, icons: Tensor, folder: Path) -> None:
        """Latents of subjects on grey and in scenes, computed once and kept beside the checkpoint."""
        cache = folder / "latents.pt"
        if not cache.exists():
            rgba, rows = augmented(icons)
            generator = torch.Generator().manual_seed(1)
            kinds = [pick(generator, len(BACKGROUNDS)) for _ in range(4 * len(rgba))]
            scenes = torch.stack([background(generator, rgba.shape[-1], list(BACKGROUNDS)[kind]) for kind in kinds])
            four = rgba.repeat(4, 1, 1, 1)
            blends = scenes + (four[:, :3] - scenes) * four[:, 3:]
            grey = encode(self.vae, premultiply_grey(rgba))
            kept = {"grey": grey, "rows": rows, "blends": encode(self.vae, blends), "kinds": torch.tensor(kinds)}
            kept["scale"] = 1 / grey.std()
            torch.save(kept, cache)
        kept = torch.load(cache, weights_only=True)
        self.scale = float(kept["scale"])
        self.grey, self.blends = kept["grey"] * self.scale, kept["blends"] * self.scale
        self.rows, self.kinds = kept["rows"], kept["kinds"]

    def rescale(self, scale: float) -> None:
        """Use another scaling factor than the one that follows from these pictures."""
        self.grey, self.blends = (latents * (scale / self.scale) for latents in (self.grey, self.blends))
        self.scale = scale

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Velocity error on a mix of grey pictures and scenes, text dropped in a tenth."""
        latents, prompts = [], []
        for chance in uniform(generator, batch).tolist():
            scene = None
            if chance < SCENE_SHARE:
                row = pick(generator, len(self.blends))
                latents.append(self.blends[row])
                scene = list(BACKGROUNDS)[int(self.kinds[row])]
            else:
                variant = int(torch.multinomial(torch.tensor(VARIANT_SHARES), 1, generator=generator))
                row = variant * len(self.subjects) + pick(generator, len(self.subjects))
                latents.append(self.grey[row])
            subject = self.subjects[int(self.rows[row % len(self.rows)])]
            words = prompt(subject, generator, scene)
            prompts.append("" if float(uniform(generator, 1)) < EMPTY_TEXT_SHARE else words)
        return velocity_loss(self.unet, self.alphas, torch.stack(latents), self.text(prompts), generator), {}

    def sample(self, path: Path) -> None:
        """Twenty subjects, decoded by the plain VAE."""
        chosen = self.subjects[:: max(1, len(self.subjects) // 20)][:20]
        latents = sample_latents(self.unet, self.text, [s.replace("-", " ") for s in chosen])
        decoded = self.vae.decode(latents / self.scale).sample / 2 + 0.5
        save_grid(path, list(decoded.split(10)))
