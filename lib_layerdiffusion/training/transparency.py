"""Stage `transparency`: encoder E (RGBA -> latent offset) and decoder D (picture, latent -> RGBA), the VAE frozen.

The VAE sees the picture premultiplied onto mid-grey. So that alpha has to travel in the latent and can't be guessed
from the known grey, part of the training pictures have grey subjects, holes or soft matter.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from lib_layerdiffusion.networks.transparent_decoder import TransparentDecoder
from lib_layerdiffusion.networks.transparent_encoder import TransparentEncoder
from lib_layerdiffusion.training.adversary import PatchDiscriminator, adversarial_losses, premultiplied
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.devices import device_of
from lib_layerdiffusion.training.losses import FeatureDistance, LossWeights, reconstruction_error
from lib_layerdiffusion.training.pools import draw, hair_pool, soft_pool
from lib_layerdiffusion.training.synthesis import premultiply_grey, smooth_noise, translucent, uniform
from lib_layerdiffusion.training.vae import aligned_crop, draw_icons, icons_tensor, save_grid
from lib_layerdiffusion.training.views import draw_views, each_turned, each_turned_back

ENCODER_WIDTHS = (16, 32, 64, 96)
DECODER_WIDTHS = (16, 32, 48, 64, 80)
# The share of training pictures of each kind; the rest are plain icons.
GREY_SHARE, HOLE_SHARE, SOFT_SHARE = 0.12, 0.12, 0.25
# The same where D learns alone: of hair, the hardest, it had seen too little to be done with it.
ALONE_SOFT_SHARE, ALONE_HAIR_SHARE = 0.33, 0.33
# Of the plain icons. With 30 % of all pictures, as in the paper, two plain icons in three would come without offset.
DROP_SHARE = 0.3
# How far a unit offset moves the latent while training, as a share of the latents' standard deviation; folded into E's
# last layer on export. A smaller reach would drown in the errors of a sampled latent.
OFFSET_REACH = 0.35
# At most how much is added to latents before decoding, likewise as a share: a sampled latent is never quite right.
LATENT_NOISE = 0.07


def greyed(rgba: Tensor, generator: Generator) -> Tensor:
    """Recolour subjects to within a little of the background's grey; alpha stays: [N, 4, H, W]."""
    keep = uniform(generator, len(rgba), 1, 1, 1, high=0.25)
    return torch.cat([0.5 + (rgba[:, :3] - 0.5) * keep, rgba[:, 3:]], dim=1)


def perforated(rgba: Tensor, generator: Generator) -> Tensor:
    """Make parts of subjects transparent or translucent with a noise mask; colour stays."""
    if len(rgba) == 0:  # a batch of one picture is grey, and there is nothing to stack
        return rgba
    size = rgba.shape[-1]
    noise = torch.stack([smooth_noise(generator, 1, size, 3 + row % 6) for row in range(len(rgba))])
    sharpness = uniform(generator, len(rgba), 1, 1, 1, low=2, high=20)
    return torch.cat([rgba[:, :3], rgba[:, 3:] * ((noise - 0.4) * sharpness + 0.5).clamp(0, 1)], dim=1)


class TransparencyStage:
    """Trains E and D together on a frozen VAE, against a patch discriminator.

    small: networks of the bundled family's sizes; otherwise of the published files' (104 million parameters in D).
    fixed_encoder: D learns alone (stage `decoder`). Latents stay what they are, so layers can be trained meanwhile, and
    a step costs less, as nothing has to be differentiated through the VAE.
    """

    def __init__(
        self, data: Path, vae: nn.Module, crop: int = 256, *, small: bool = True, fixed_encoder: bool = False
    ) -> None:
        self.vae = vae.requires_grad_(requires_grad=False).eval().to(memory_format=torch.channels_last)
        self.encoder = TransparentEncoder(widths=ENCODER_WIDTHS) if small else TransparentEncoder()
        self.decoder = (
            TransparentDecoder(channels=DECODER_WIDTHS, layers=1, attention_levels=1) if small else TransparentDecoder()
        )
        for network in (self.encoder, self.decoder):
            network.to(memory_format=torch.channels_last)
        # A fresh encoder is the identity: no offset.
        torch.nn.init.zeros_(self.encoder.blocks[-1].weight)
        torch.nn.init.zeros_(self.encoder.blocks[-1].bias)
        self.judge = PatchDiscriminator().to(memory_format=torch.channels_last)
        self.modules = {"encoder": self.encoder, "decoder": self.decoder, "judge": self.judge}
        self.frozen: tuple[nn.Module, ...] = (self.vae,)
        if fixed_encoder:
            del self.modules["encoder"]
            self.frozen = (self.vae, self.encoder.requires_grad_(requires_grad=False))
        self.icons = icons_tensor(IconSet.load(data, held_out=False))
        self.checks = icons_tensor(IconSet.load(data, held_out=True))
        self.soft: Tensor | None = None
        self.hair: Tensor | None = None
        self.shares = (GREY_SHARE, HOLE_SHARE, SOFT_SHARE, 0.0)
        if fixed_encoder:
            self.shares = (GREY_SHARE, HOLE_SHARE, ALONE_SOFT_SHARE, ALONE_HAIR_SHARE)
        self.crop = min(crop, self.icons.shape[-1])
        self.weights, self.error = LossWeights(), reconstruction_error
        with torch.no_grad():
            shown = premultiply_grey(self.icons[::200].float() / 255)
            posterior = self.vae.encode(shown * 2 - 1).latent_dist
        self.spread = float(posterior.mean.std())
        self.gain = OFFSET_REACH * self.spread / float(posterior.std.mean())

    def batch(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw RGBA pictures [count, 4, S, S] and, for each, whether its offset is dropped [count, 1, 1, 1]."""
        size, device = self.icons.shape[-1], self.icons.device
        if self.soft is None:
            self.soft = soft_pool(size).to(device)
        rgba = draw_icons(self.icons, count, generator)
        grey, hole, soft, hair = (max(1, round(count * share)) if share else 0 for share in self.shares)
        rgba[:grey] = greyed(rgba[:grey], generator)
        rgba[grey : grey + hole] = perforated(rgba[grey : grey + hole], generator)
        special = grey + hole + soft
        # A small batch has no room for all that its shares are rounded up to.
        room = rgba[grey + hole : special]
        room[:] = draw(self.soft, len(room), generator)
        if hair:
            if self.hair is None:
                self.hair = hair_pool(size).to(device)
            room = rgba[special : special + hair]
            room[:] = draw(self.hair, len(room), generator)
        rgba = aligned_crop(rgba, self.crop, generator).contiguous(memory_format=torch.channels_last)
        # Only plain icons can be told from their background without the offset; the others would teach guessing.
        plain = torch.arange(count, device=rgba.device)[:, None, None, None] >= special + hair
        return rgba, plain & (uniform(generator, count, 1, 1, 1) < DROP_SHARE)

    def encode(self, rgba: Tensor) -> tuple[Tensor, Tensor]:
        """Adjusted latent and plain latent (VAE scale) of straight RGBA with padded colour."""
        with torch.no_grad():
            posterior = self.vae.encode(premultiply_grey(rgba) * 2 - 1).latent_dist
        offset = self.encoder(torch.cat([rgba[:, 3:], rgba[:, :3]], dim=1)).float()
        return posterior.mean.float() + posterior.std.float() * self.gain * offset, posterior.mean.float()

    def decode(self, latent: Tensor, views: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """RGBA [N, 4, H, W] and the VAE's own picture [N, 3, H, W], both around [0, 1], of a VAE-scale latent.

        views: [N] rows of VIEWS, how each pair of picture and latent is turned before D sees it; what D gives is turned
        back.
        """
        picture = self.vae.decode(latent).sample.float() / 2 + 0.5
        if views is None:
            out = self.decoder(picture.clamp(0, 1), latent).float()
        else:
            seen, beside = (each_turned(x, views) for x in (picture.clamp(0, 1), latent))
            out = self.decoder(seen.contiguous(memory_format=torch.channels_last), beside).float()
            out = each_turned_back(out, views)
        return torch.cat([out[:, 1:], out[:, :1]], dim=1), picture

    def compile(self) -> None:
        """Compile the networks and the error of their results."""
        halves = [self.vae.get_submodule(name) for name in ("encoder", "decoder")]
        for network in (*halves, self.encoder, self.decoder):
            network.compile(dynamic=False)
        self.error = torch.compile(reconstruction_error, dynamic=False)

    def loss(self, batch: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction, identity of the VAE's picture, size of the offset, adversary, as `weights` say."""
        rgba, dropped = self.batch(batch, generator)
        adjusted, plain = self.encode(rgba)
        latent = torch.where(dropped, plain, adjusted)
        noise = torch.randn(latent.shape, generator=generator, device=generator.device)
        noise = noise * uniform(generator, len(rgba), 1, 1, 1)
        views = draw_views(len(rgba), generator)
        ours, picture = self.decode(latent + noise * LATENT_NOISE * self.spread, views)
        shown, weights = premultiply_grey(rgba), self.weights
        identity = (picture - shown).abs().mean()
        loss = self.error(ours, rgba, weights) + weights.identity * identity
        loss = loss + weights.offset * ((adjusted - plain) / self.spread).square().mean()
        if weights.features:
            loss = loss + weights.features * FeatureDistance(self.vae)(premultiply_grey(ours), shown)
        fooled, told = adversarial_losses(self.judge, premultiplied(ours), premultiplied(rgba))
        # AdamW is blind to the scale of the discriminator's own loss; the common limit on gradients is not.
        loss = loss + weights.adversary * (fooled + told)
        alpha = (ours[:, 3:] - rgba[:, 3:]).abs().mean()
        return loss, {"alpha": alpha.detach(), "identity": identity.detach()}

    def sample(self, path: Path) -> None:
        """Held-out icons and soft matter: on grey, result over red, true and found alpha, VAE's picture."""
        icons = self.checks[:: max(1, len(self.checks) // 6)][:6].cpu().float() / 255
        generator = torch.Generator().manual_seed(3)
        rgba = torch.cat([icons, greyed(icons[:2], generator), translucent(generator, icons.shape[-1], 5)])
        rgba = rgba.to(device_of(self.vae))
        ours, picture = self.decode(self.encode(rgba)[0])
        ours = ours.clamp(0, 1)
        red = torch.tensor([0.9, 0.2, 0.2])[:, None, None].to(rgba.device) * torch.ones_like(rgba[:, :3])
        rows = [premultiply_grey(rgba), picture, red + (ours[:, :3] - red) * ours[:, 3:]]
        save_grid(path, [*rows, rgba[:, 3:].expand(-1, 3, -1, -1), ours[:, 3:].expand(-1, 3, -1, -1)])
