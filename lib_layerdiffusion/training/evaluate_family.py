"""A family as its users have it: every figure is measured through an engine, with its defaults."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib_layerdiffusion.transparency import LatentTransparency

Item = TypeVar("Item")


class Engine(Protocol):
    """What measuring needs of an engine; `LayerDiffusion` is one, and says what each of these does."""

    host: Any
    store: Any

    @property
    def methods(self) -> Sequence[Any]: ...

    def encode(self, picture: object) -> Tensor: ...

    def decode(self, latent: Tensor, passes: int | None = None) -> Image.Image: ...

    def generate(self, prompt: str, **arguments: Any) -> Any: ...


def as_pictures(batch: Tensor) -> list[np.ndarray]:
    """[N, C, H, W] in [0, 1] -> N uint8 [H, W, C], as files hold them."""
    return [np.ascontiguousarray(item) for item in (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def as_batch(pictures: Iterable[Any]) -> Tensor:
    """Pillow pictures or arrays of one size -> [N, C, H, W] in [0, 1]."""
    arrays = [torch.from_numpy(np.array(picture)) for picture in pictures]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 255


def shown(items: Sequence[Item], about: str) -> Iterable[Item]:
    """`items`, with a bar on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=about, disable=None, leave=False)


@dataclass(frozen=True)
class Family:
    """An engine on a family, and the subjects that it knows. passes: of decoding; None for the family's own number."""

    engine: Engine
    subjects: Sequence[str]
    passes: int | None = None

    @property
    def size(self) -> int:
        """The side of its pictures in pixels."""
        return int(self.engine.host.default_size)

    def has(self, method: str) -> bool:
        """Whether it has the file of a method, by its short name."""
        return any(self.engine.store.find(row.weights) for row in self.engine.methods if row.name == method)

    def encode(self, rgba: Tensor) -> Tensor:
        """Latents [N, 4, h, w] in the VAE's scale of straight RGBA [N, 4, H, W], alpha hidden inside."""
        return torch.cat([self.engine.encode(picture).cpu() for picture in shown(as_pictures(rgba), "encode")])

    def encode_plain(self, rgba: Tensor) -> Tensor:
        """The same without the transparency offset."""
        host = self.engine.host
        plain = [host.encode_start(picture, None).cpu() for picture in as_pictures(rgba)]
        return torch.cat(plain) / host.scaling

    def decode(self, latents: Tensor, passes: int | None = None) -> Tensor:
        """Straight RGBA [N, 4, H, W] of latents in the VAE's scale."""
        count = passes or self.passes
        return as_batch(self.engine.decode(latent[None], passes=count) for latent in shown(list(latents), "decode"))

    def decode_blind(self, latents: Tensor) -> Tensor:
        """The same where D sees the picture alone, its latent zeroed."""
        host = self.engine.host
        networks = LatentTransparency(decoder=host.placed(self.engine.store.decoder(host.family())))
        pixels = self.pixels(latents)
        pixels, nothing = pixels.to(host.device), torch.zeros_like(latents, device=host.device)
        return networks.decode(pixels, nothing, self.passes or host.decode_passes).float().cpu()

    def round_trip(self, rgba: Tensor) -> Tensor:
        """Pictures encoded and decoded again."""
        return self.decode(self.encode(rgba))

    def pixels(self, latents: Tensor) -> Tensor:
        """The plain VAE's pictures [N, 3, H, W] of latents in the VAE's scale."""
        return self.engine.host.decode_latents(latents * self.engine.host.scaling).float().cpu()

    def plain(self, shown_: Tensor) -> Tensor:
        """What the plain VAE makes of opaque pictures [N, 3, H, W]."""
        host = self.engine.host
        return host.decode_latents(torch.cat([host.encode_pixels(part) for part in shown_.split(1)])).float().cpu()

    def generate(
        self, prompt: str, method: str = "transparent", *, seed: int = 0, batch: int = 1, **given: Any
    ) -> Mapping[str, Tensor]:
        """Layers by their names, [batch, 3 or 4, H, W] each, with the engine's defaults for all that is not given."""
        if self.passes is not None:
            given["decode_passes"] = self.passes
        images = self.engine.generate(prompt, method=method, seed=seed, batch=batch, **given).images
        return {str(layer): as_batch(image.layers[layer] for image in images) for layer in images[0].layers}
