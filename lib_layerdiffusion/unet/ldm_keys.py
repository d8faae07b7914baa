"""Names of UNet parameters: diffusers layout on one side, the ldm layout of checkpoints and layer files on the other.

Published layer files name their targets in the ldm layout (`input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight`),
`UNet2DConditionModel` in its own (`down_blocks.1.attentions.0...`). Both follow from the model's configuration, so the
map is derived from it instead of being written down; it holds for SD1.5, SDXL and any smaller UNet of their kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lib_layerdiffusion.errors import LayerDiffusionError

_WEIGHT_BIAS = ("weight", "bias")

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}

_EDGES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

_ADDED_CONDITION = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


def _per_level(value: int | Sequence[int], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


def _transformer_parameters(depth: int) -> Iterator[str]:
    """Parameter names inside one spatial transformer; both layouts agree on them."""
    for outer in ("norm", "proj_in", "proj_out"):
        yield from (f"{outer}.{part}" for part in _WEIGHT_BIAS)
    for block in range(depth):
        root = f"transformer_blocks.{block}"
        for norm in ("norm1", "norm2", "norm3"):
            yield from (f"{root}.{norm}.{part}" for part in _WEIGHT_BIAS)
        for attention in ("attn1", "attn2"):
            yield from (f"{root}.{attention}.{name}.weight" for name in ("to_q", "to_k", "to_v"))
            yield from (f"{root}.{attention}.to_out.0.{part}" for part in _WEIGHT_BIAS)
        for layer in ("ff.net.0.proj", "ff.net.2"):
            yield from (f"{root}.{layer}.{part}" for part in _WEIGHT_BIAS)


class _Walk:
    """Walks a UNet's blocks in running order and says for each module: diffusers name, ldm name, kind, detail."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.widths: list[int] = list(config["block_out_channels"])
        self.levels = len(self.widths)
        self.layers = _per_level(config.get("layers_per_block", 2), self.levels)
        self.depths = _per_level(config.get("transformer_layers_per_block", 1), self.levels)
        self.down_attends = ["CrossAttn" in name for name in config["down_block_types"]]
        self.up_attends = ["CrossAttn" in name for name in config["up_block_types"]]
        if len(self.down_attends) != self.levels or len(self.up_attends) != self.levels:
            raise LayerDiffusionError(
                "This UNet configuration names a different number of blocks than of widths; check its config.json."
            )

    def down(self) -> Iterator[tuple[str, str, str, int]]:
        index, width = 1, self.widths[0]
        for level, out in enumerate(self.widths):
            for layer in range(self.layers[level]):
                yield f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{index}.0", "resnet", int(width != out)
                if self.down_attends[level]:
                    name = f"down_blocks.{level}.attentions.{layer}"
                    yield name, f"input_blocks.{index}.1", "transformer", self.depths[level]
                index, width = index + 1, out
            if level < self.levels - 1:
                yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{index}.0.op", "plain", 0
                index += 1

    def middle(self) -> Iterator[tuple[str, str, str, int]]:
        yield "mid_block.resnets.0", "middle_block.0", "resnet", 0
        yield "mid_block.attentions.0", "middle_block.1", "transformer", self.depths[-1]
        yield "mid_block.resnets.1", "middle_block.2", "resnet", 0

    def up(self) -> Iterator[tuple[str, str, str, int]]:
        index = 0
        for level, attends in enumerate(self.up_attends):
            mirror = self.levels - 1 - level
            for layer in range(self.layers[mirror] + 1):
                # Each layer reads its input joined with a skip connection, so its shape always changes.
                yield f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{index}.0", "resnet", 1
                if attends:
                    name = f"up_blocks.{level}.attentions.{layer}"
                    yield name, f"output_blocks.{index}.1", "transformer", self.depths[mirror]
                index += 1
            if level < self.levels - 1:
                ours = f"output_blocks.{index - 1}.{2 if attends else 1}.conv"
                yield f"up_blocks.{level}.upsamplers.0.conv", ours, "plain", 0


def diffusers_to_ldm(config: Mapping[str, Any]) -> dict[str, str]:
    """Map every parameter name of a `UNet2DConditionModel` to its ldm name.

    Args:
        config: the model's configuration (`unet.config` or its `config.json`): widths, block types, layers per block,
            transformer layers per block and, for SDXL, `addition_embed_type`.

    Returns:
        diffusers name -> ldm name, both without the `model.diffusion_model.` prefix, in running order.

    Raises:
        LayerDiffusionError: widths and block types disagree.
    """
    walk = _Walk(config)
    edges = dict(_EDGES)
    if config.get("addition_embed_type") == "text_time":
        edges.update(_ADDED_CONDITION)
    keys = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in edges.items() for part in _WEIGHT_BIAS}
    for blocks in (walk.down(), walk.middle(), walk.up()):
        for ours, theirs, kind, detail in blocks:
            if kind == "transformer":
                keys.update({f"{ours}.{name}": f"{theirs}.{name}" for name in _transformer_parameters(detail)})
                continue
            names = {"": ""}
            if kind == "resnet":
                names = _RESNET | ({"conv_shortcut": "skip_connection"} if detail else {})
            for inner, outer in names.items():
                for part in _WEIGHT_BIAS:
                    keys[".".join(filter(None, (ours, inner, part)))] = ".".join(filter(None, (theirs, outer, part)))
    return keys


def ldm_to_diffusers(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the inverse of :func:`diffusers_to_ldm`; arguments and errors are the same."""
    return {theirs: ours for ours, theirs in diffusers_to_ldm(config).items()}


def attention_units(config: Mapping[str, Any]) -> list[str]:
    """List the attention layers in the order in which attention-sharing files number them.

    attn1 and attn2 of each transformer block: input blocks first, then output blocks, the middle block last.

    Args:
        config: as in :func:`diffusers_to_ldm`.

    Returns:
        diffusers module names; entry i belongs to `hookers.layers.<i>`. SD1.5 has 32.

    Raises:
        LayerDiffusionError: widths and block types disagree.
    """
    walk = _Walk(config)
    return [
        f"{ours}.transformer_blocks.{block}.{attention}"
        for blocks in (walk.down(), walk.up(), walk.middle())
        for ours, _, kind, depth in blocks
        if kind == "transformer"
        for block in range(depth)
        for attention in ("attn1", "attn2")
    ]
