"""A diffusion model of a few thousand parameters with the names, hooks and call signatures of a real one."""

import torch
from torch import nn

from fakehost import kind, memory_management
from fakehost.attention import attention_function

WIDTH, CONTEXT, HEADS = 16, 12, 2


class Attention(nn.Module):
    def __init__(self, context=None):
        super().__init__()
        self.heads = HEADS
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(context or WIDTH, WIDTH, bias=False)
        self.to_v = nn.Linear(context or WIDTH, WIDTH, bias=False)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))

    def forward(self, x, context=None, value=None, mask=None, transformer_options=None):
        source = x if context is None else context
        v = self.to_v(source if value is None else value)
        return self.to_out(attention_function(self.to_q(x), self.to_k(source), v, self.heads))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1, self.attn2 = Attention(), Attention(CONTEXT)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x, context, options):
        n, extra = self.norm1(x), {}
        for patch in options.get("patches", {}).get("attn1_patch", []):
            n, extra["context"], extra["value"] = patch(n, n, n, options)
        replace = options.get("patches_replace", {}).get("attn1", {}).get(options["block"])
        if replace is None:
            n = self.attn1(n, **extra, transformer_options=options)
        else:
            q, k, v = self.attn1.to_q(n), self.attn1.to_k(n), self.attn1.to_v(n)
            n = self.attn1.to_out(replace(q, k, v, {**options, "n_heads": HEADS}))
        x = x + n
        n = self.norm2(x)
        replace = options.get("patches_replace", {}).get("attn2", {}).get(options["block"])
        if replace is None:
            return x + self.attn2(n, context=context, transformer_options=options)
        q, k, v = self.attn2.to_q(n), self.attn2.to_k(context), self.attn2.to_v(context)
        return x + self.attn2.to_out(replace(q, k, v, options))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block()])

    def forward(self, x, context, options):
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, options)
        return tokens.transpose(1, 2).view_as(x)


class UNet(nn.Module):
    """Two sizes: 1/8 and 1/16 of the picture's."""

    def __init__(self):
        super().__init__()
        self.input_blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(4, WIDTH, 3, padding=1)),
                nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 1), Transformer()]),
            ]
        )
        self.middle_block = nn.ModuleList([nn.AvgPool2d(2, ceil_mode=True), Transformer()])
        self.output_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(2 * WIDTH, WIDTH, 1), Transformer()])])
        self.out = nn.Conv2d(WIDTH, 4, 3, padding=1)

    def forward(self, x, t, context=None, transformer_options=None):
        def at(block):
            return {**transformer_options, "block": block, "block_index": 0, "n_heads": HEADS}

        first = self.input_blocks[0](x) + torch.sin(t)[:, None, None, None]
        first = self.input_blocks[1][1](self.input_blocks[1][0](first), context, at(("input", 1)))
        middle = self.middle_block[1](self.middle_block[0](first), context, at(("middle", 0)))
        middle = nn.functional.interpolate(middle, size=first.shape[2:])
        joined = self.output_blocks[0][0](torch.cat([middle, first], dim=1))
        return self.out(self.output_blocks[0][1](joined, context, at(("output", 0))))


class Predictor:
    sigma_max = 10.0

    def percent_to_sigma(self, percent):
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else self.sigma_max * (1 - percent)


class KModel(nn.Module):
    computation_dtype = storage_dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.diffusion_model = UNet()
        self.schedule = Predictor()

    def apply_model(self, x, sigma, c_crossattn, c_concat=None, transformer_options=None):
        scaled = x / (sigma[:, None, None, None] ** 2 + 1) ** 0.5
        stacked = scaled if c_concat is None else torch.cat([scaled, c_concat], dim=1)
        noise = self.diffusion_model(stacked, sigma, context=c_crossattn, transformer_options=transformer_options)
        return x - noise * sigma[:, None, None, None]


class Posterior:
    def __init__(self, moments):
        self.mean, log_variance = moments.chunk(2, dim=1)
        self.std = (0.5 * log_variance.clamp(-30, 20)).exp()

    def sample(self):
        return self.mean + self.std * torch.randn(self.mean.shape)


class Autoencoder(nn.Module):
    factor = 0.2

    def __init__(self):
        super().__init__()
        self.encoder, self.up = nn.Conv2d(3, 8, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
        self.quant_conv = nn.Conv2d(8, 8, 1)

    def encode(self, pixels, regulation=None):
        posterior = Posterior(self.quant_conv(self.encoder(pixels)))
        if regulation is not None:
            return regulation(posterior)
        return posterior.sample() if kind.draws else posterior.mean

    def scale_in(self, latent):
        return latent * self.factor

    def scale_out(self, latent):
        return latent / self.factor


class VAE:
    def __init__(self, model=None, patcher=None):
        self.patcher = patcher or kind.patcher(model)
        self.first_stage_model = self.patcher.model

    def clone(self):
        return VAE(patcher=self.patcher.clone())

    def encode(self, pixels):
        """[B, H, W, 3] in 0 to 1 -> [B, 4, H/8, W/8]."""
        regulation = self.patcher.model_options.get("model_vae_regulation")
        return self.first_stage_model.encode(pixels.movedim(-1, 1) * 2 - 1, regulation)

    def decode(self, latent):
        return ((self.first_stage_model.up(latent).tanh() + 1) / 2).movedim(1, -1)


class Objects:
    def __init__(self, unet, vae):
        self.unet, self.vae = unet, vae

    def shallow_copy(self):
        return Objects(self.unet, self.vae)


class StableDiffusion:
    is_sd1, is_sdxl, is_inpaint = True, False, False

    def __init__(self):
        torch.manual_seed(1)
        memory_management.unload_all_models()
        self.forge_objects = Objects(
            kind.unet_patcher(KModel().eval().requires_grad_(False)), VAE(Autoencoder().requires_grad_(False))
        )
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()

    def get_learned_conditioning(self, prompts):
        """75 words make a chunk of 77 tokens, and all prompts of a call have as many chunks."""
        chunks = max(-(-max(len(text.split()), 1) // 75) for text in prompts)
        return torch.stack([_encoded(text, chunks) for text in prompts])


class StableDiffusionXL(StableDiffusion):
    is_sd1, is_sdxl = False, True


class Flux(StableDiffusion):
    is_sd1 = False


def _encoded(text, chunks):
    generator = torch.Generator().manual_seed(sum(ord(letter) * (i + 1) for i, letter in enumerate(text)))
    return torch.randn(chunks * 77, CONTEXT, generator=generator)
