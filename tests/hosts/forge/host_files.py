"""Files for real hosts: keys and shapes of published ones, random values, made for an SD1.5 checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_layerdiffusion.methods import METHODS, VAE_FILES, Technique
from lib_layerdiffusion.unet.injection import KEY_PREFIX

UNET = "model.diffusion_model."
RANK = 8
ENCODER_BLOCKS = 12
"""Input blocks of the UNet, each with an output of a ControlNet."""


def unet_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the UNet's tensors."""
    with safe_open(checkpoint, "pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys() if key.startswith(UNET)}  # noqa: SIM118
    return {key.removeprefix(UNET): shape for key, shape in found.items()}


def write_offsets(checkpoint: Path, layers: Path, folder: Path) -> None:
    """Files of the SDXL methods that fit an SD1.5 UNet, and the transparency VAE of `layers` beside them.

    With them weight offsets run where SDXL's size forbids it: the technique's path is the same.
    """
    shapes = {
        key: shape for key, shape in unet_shapes(checkpoint).items() if ".attn" in key and key.endswith("to_q.weight")
    }
    for seed, method in enumerate(row for row in METHODS.values() if row.technique is Technique.WEIGHT_OFFSETS):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, (rows, columns) in shapes.items():
            tensors[f"{KEY_PREFIX}{key}::lora::0"] = 0.3 * torch.randn(rows, RANK, generator=generator)
            tensors[f"{KEY_PREFIX}{key}::lora::1"] = 0.3 * torch.randn(RANK, columns, generator=generator)
        if method.inputs:
            widened = 0.1 * torch.randn(320, 4 + 4 * len(method.inputs), 3, 3, generator=generator)
            tensors[f"{KEY_PREFIX}input_blocks.0.0.weight::diff::0"] = widened
        save_file(tensors, folder / f"{method.weights}.safetensors")
    for files in VAE_FILES.values():
        for name in (files.encoder, files.decoder):
            (folder / f"{name}.safetensors").symlink_to(layers / f"{name}.safetensors")


def write_control(checkpoint: Path, path: Path) -> None:
    """A ControlNet: the encoder half of the UNet, random hint layers, outputs that are not zero."""
    generator = torch.Generator().manual_seed(7)
    kept = ("time_embed.", "input_blocks.", "middle_block.")
    with safe_open(checkpoint, "pt") as file:
        names = [key for key in file.keys() if key.removeprefix(UNET).startswith(kept)]  # noqa: SIM118
        tensors = {f"control_model.{key.removeprefix(UNET)}": file.get_tensor(key).half() for key in names}
    widths = [16, 16, 32, 32, 96, 96, 256, 320]
    for number, (before, after) in enumerate(zip([3, *widths[:-1]], widths, strict=True)):
        tensors[f"control_model.input_hint_block.{2 * number}.weight"] = _conv(after, before, 3, 0.1, generator)
        tensors[f"control_model.input_hint_block.{2 * number}.bias"] = torch.zeros(after).half()
    outputs = [320] * 4 + [640] * 3 + [1280] * 5
    for number, width in enumerate(outputs[:ENCODER_BLOCKS]):
        tensors[f"control_model.zero_convs.{number}.0.weight"] = _conv(width, width, 1, 0.01, generator)
        tensors[f"control_model.zero_convs.{number}.0.bias"] = torch.zeros(width).half()
    tensors["control_model.middle_block_out.0.weight"] = _conv(1280, 1280, 1, 0.01, generator)
    tensors["control_model.middle_block_out.0.bias"] = torch.zeros(1280).half()
    save_file(tensors, path)


def write_inpaint_patch(checkpoint: Path, path: Path) -> None:
    """Fooocus' inpaint patch: for each weight its change in 256 levels, and the lowest and the highest of them."""
    generator = torch.Generator().manual_seed(9)
    low, high = torch.tensor([-0.01]), torch.tensor([0.01])
    patch = {}
    for key, shape in unet_shapes(checkpoint).items():
        if key.endswith("to_q.weight") or key in {"time_embed.0.weight", "input_blocks.0.0.weight"}:
            levels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            patch[f"diffusion_model.{key}"] = [levels, low, high]
    torch.save(patch, path)


def write_adapter(_: Path, path: Path) -> None:
    """An IP-Adapter of SD1.5 as published: four tokens from an image embedding, keys and values of 16 attentions.

    In half precision, as published: hosts that calculate in another make weights of their own then.
    """
    generator = torch.Generator().manual_seed(11)
    tokens, context, embedding = 4, 768, 1024
    widths = [320, 320, 640, 640, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3, 1280]  # down, up, middle
    tensors = {
        "image_proj.proj.weight": 0.02 * torch.randn(tokens * context, embedding, generator=generator),
        "image_proj.proj.bias": torch.zeros(tokens * context),
        "image_proj.norm.weight": torch.ones(context),
        "image_proj.norm.bias": torch.zeros(context),
    }
    for number, width in enumerate(widths):
        for name in ("to_k_ip", "to_v_ip"):
            weight = 0.05 * torch.randn(width, context, generator=generator)
            tensors[f"ip_adapter.{2 * number + 1}.{name}.weight"] = weight
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path)


def write_image_encoder(path: Path) -> None:
    """CLIP's ViT-H/14 with its projection, 632 million random weights in half precision: 1.3 GB."""
    generator = torch.Generator().manual_seed(13)
    width, inner, layers, patches = 1280, 5120, 32, 257

    def noise(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float16).normal_(std=0.02, generator=generator)

    tensors = {
        "vision_model.embeddings.class_embedding": noise(width),
        "vision_model.embeddings.patch_embedding.weight": noise(width, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": noise(patches, width),
        "vision_model.embeddings.position_ids": torch.arange(patches)[None],
        "visual_projection.weight": noise(1024, width),
    }
    norms = ["pre_layrnorm", "post_layernorm"]  # the first spelt as published
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(layers):
        block = f"encoder.layers.{layer}"
        norms += [f"{block}.layer_norm1", f"{block}.layer_norm2"]
        shapes |= {f"{block}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {f"{block}.mlp.fc1": (inner, width), f"{block}.mlp.fc2": (width, inner)}
    for name, (rows, columns) in shapes.items():
        tensors[f"vision_model.{name}.weight"] = noise(rows, columns)
        tensors[f"vision_model.{name}.bias"] = torch.zeros(rows).half()
    for name in norms:
        tensors[f"vision_model.{name}.weight"] = torch.ones(width).half()
        tensors[f"vision_model.{name}.bias"] = torch.zeros(width).half()
    save_file(tensors, path)


def write_upscaler(path: Path) -> None:
    """An ESRGAN of the published architecture whose convolutions hand colour on: it repeats each pixel four by four."""
    generator = torch.Generator().manual_seed(3)
    width, growth = 8, 32
    tensors = {}

    def conv(name: str, after: int, before: int, *, passes: bool = True) -> None:
        weight = 1e-4 * torch.randn(after, before, 3, 3, generator=generator)
        if passes:
            weight[range(3), range(3), 1, 1] += 1.0
        tensors.update({f"{name}.weight": weight, f"{name}.bias": torch.zeros(after)})

    conv("model.0", width, 3)
    for block in range(3):
        for layer in range(5):
            name = f"model.1.sub.0.RDB{block + 1}.conv{layer + 1}.0"
            conv(name, growth if layer < 4 else width, width + layer * growth, passes=False)
    conv("model.1.sub.1", width, width, passes=False)
    for name in ("model.3", "model.6", "model.8"):
        conv(name, width, width)
    conv("model.10", 3, width)
    torch.save(tensors, path)


def _conv(after: int, before: int, side: int, scale: float, generator: torch.Generator) -> torch.Tensor:
    return (scale * torch.randn(after, before, side, side, generator=generator)).half()
