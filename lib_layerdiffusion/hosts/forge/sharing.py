"""Attention sharing in a host's UNet, beside what other extensions put into the same attention layers.

An extension that replaces the attention of a block (IP-Adapter, self-attention and perturbed-attention guidance) makes
the block bypass its attention layers, and with them the units that stand in for those. The replacements are therefore
taken out of the options before the UNet sees them, and run where a unit attends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge.backends.protocol import Backend
from lib_layerdiffusion.networks import AttentionSharing
from lib_layerdiffusion.networks.attention_sharing import SharingRun
from lib_layerdiffusion.unet.injection import KEY_PREFIX

ATTENTION = re.compile(r"(input_blocks|output_blocks|middle_block)\.(?:.+\.)?transformer_blocks\.\d+\.attn[12]")
ATTENTION_PARTS = ("input_blocks", "output_blocks", "middle_block")
_ASIDE = "layerdiffusion_replacements"
"""Among the transformer options of a call: what other extensions put in the place of attention."""
_KINDS = ("attn1", "attn2")


def in_file_order(layers: Iterable[str]) -> list[str]:
    """Names of attention layers, given in the order of the UNet, in that of attention-sharing files: middle last."""
    return sorted(layers, key=lambda name: ATTENTION_PARTS.index(name.split(".", 1)[0]))


def add_sharing(backend: Backend, patcher: Any, sharing: AttentionSharing, run: SharingRun) -> None:
    """Lead every attention layer through its unit.

    Only `forward` of a layer is replaced and the layer stays where it is, so that LoRAs find its weights by name.
    """
    run.attention = backend.attention
    unet = patcher.model.diffusion_model
    modules = dict(unet.named_modules())
    for name, unit in zip(in_file_order(filter(ATTENTION.fullmatch, modules)), sharing.units, strict=True):
        patcher.add_object_patch(f"{KEY_PREFIX}{name}.forward", _forward(unit, modules[name], run, name[-5:]))
    patcher.add_object_patch(f"{KEY_PREFIX}forward", _unet_forward(unet, run))


def _forward(unit: Any, layer: Any, run: SharingRun, kind: str) -> Callable[..., Tensor]:
    def forward(
        x: Tensor, context: Tensor | None = None, transformer_options: Mapping[str, Any] | None = None, **_: Any
    ) -> Tensor:
        run.replacement = _replacement(transformer_options or {}, kind)
        try:
            return unit(x, layer, context, run)
        finally:
            run.replacement = None

    return forward


def keep_memory_free(patcher: Any, sharing: AttentionSharing, element_size: int) -> None:
    """Let the host leave room for the updates folded into the UNet's weights, where it can be told."""
    reserve = getattr(patcher, "add_extra_preserved_memory_during_sampling", None)
    if reserve is not None:
        reserve(sum(unit.folded_bytes(element_size) for unit in sharing.units))


def _replacement(options: Mapping[str, Any], kind: str) -> Callable[..., Tensor] | None:
    """What stands in the place of attention in the block that is called, as a function of q, k and v."""
    replaced = options.get(_ASIDE, {}).get(kind)
    block = options.get("block")
    if not replaced or block is None:
        return None
    function = replaced.get((*block, options.get("block_index", 0))) or replaced.get(block)
    return None if function is None else partial(_in_place, function, options)


def _in_place(function: Callable[..., Tensor], options: Mapping[str, Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return function(q, k, v, options)


def _unet_forward(unet: Any, run: SharingRun) -> Callable[..., Any]:
    """What stands in for the UNet's `forward`; its class's own, as another patch of ours may be on the instance."""
    own = type(unet).forward

    def forward(x: Tensor, *arguments: Any, **named: Any) -> Any:
        _check_size(x, run)
        options = named.get("transformer_options")
        if options:
            named["transformer_options"] = _set_aside(options)
        return own(unet, x, *arguments, **named)

    return forward


def _set_aside(options: Mapping[str, Any]) -> dict[str, Any]:
    replaced = options.get("patches_replace", {})
    aside = {kind: replaced[kind] for kind in _KINDS if replaced.get(kind)}
    rest = {kind: patches for kind, patches in replaced.items() if kind not in _KINDS}
    return {**options, "patches_replace": rest, _ASIDE: aside}


def _check_size(x: Tensor, run: SharingRun) -> None:
    """The signal of a condition picture is that of the whole picture, and x [B, 4, h, w] may be a tile of it.

    Raises:
        HostError: it is.
    """
    whole = run.signal_size
    if whole is not None and tuple(x.shape[-2:]) != whole:
        raise HostError(
            "The condition picture has another size than the picture that is sampled: switch tiled sampling "
            "(MultiDiffusion) off, or use a method without condition pictures."
        )


def refuse_conflicts(model_options: Mapping[str, Any]) -> None:
    """Refuse what changes the tokens that attention gets, since positions of all frames belong together.

    Raises:
        HostError: token merging or another extension's patch of attention inputs is active.
    """
    patches = model_options.get("transformer_options", {}).get("patches", {})
    if patches.get("attn1_patch") or patches.get("attn2_patch"):
        raise HostError(
            "Token merging and other patches of attention inputs cannot be used together with SD1.5 layer methods: set "
            "Token merging ratio to 0, or switch the other extension off."
        )
