"""Attention sharing in diffusers: a processor on every attention layer of the UNet.

A processor computes what the layer returns, and nothing of the layer is replaced, so LoRAs that PEFT has wrapped
around `to_q` and its like keep working. The processors that were there are kept and put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from lib_layerdiffusion.errors import HostError, ModelError, WeightsError
from lib_layerdiffusion.networks import AttentionSharing, SharingRun
from lib_layerdiffusion.networks.precision import faster_precision
from lib_layerdiffusion.unet.injection import Injection
from lib_layerdiffusion.unet.ldm_keys import attention_units

_PLAIN = frozenset(
    ["AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "AttnProcessorNPU"]
)
_IMAGE_PROMPTS = frozenset(["IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0", "IPAdapterXFormersAttnProcessor"])


def checksums(parameters: Iterable[nn.Parameter]) -> list[int]:
    """A number for every tensor that changes with its content; torch's own version counter misses writes to `.data`."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    plain = (parameter.data for parameter in parameters if not parameter.is_meta)
    return [int(tensor.view(integers[tensor.element_size()]).sum()) for tensor in plain]


class SharedAttention:
    """A processor that runs a sharing unit around its layer.

    An IP-Adapter's processor adds attention to image tokens before the layer's output projection, which is linear: its
    share is what it returns with image tokens minus what the plain layer returns, and is added to the unit's result.
    """

    def __init__(self, unit: nn.Module, run: SharingRun, before: Any) -> None:
        self.unit, self.run, self.before = unit, run, before

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, list[Tensor]] | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """What diffusers asks of a processor: hidden [B, T, C], text states [B, L, D] or None -> [B, T, C]."""
        if not isinstance(encoder_hidden_states, tuple):
            return self.unit(hidden_states, attn, encoder_hidden_states, self.run)
        text, _images = encoder_hidden_states
        shared = self.unit(hidden_states, attn, text, self.run)
        prompted = self.before(attn, hidden_states, encoder_hidden_states, attention_mask, **options)
        return shared + prompted - AttnProcessor2_0()(attn, hidden_states, text, attention_mask)


class ProcessorExchange:
    """Puts sharing processors on attention layers and the former ones back.

    layers: the UNet's attention layers. sharing: as many units, where the UNet computes. strength: 0 is plain.
    """

    def __init__(self, layers: Sequence[Any], sharing: AttentionSharing, strength: float) -> None:
        self._layers, self._sharing = list(layers), sharing
        self._run = SharingRun(weight=strength)
        self._before: list[Any] = []
        self._sums = self._checksums()

    def enable(self) -> None:
        """Set the sharing processors."""
        if not self._before:
            _check_processors(self._layers)
            self._before = [layer.processor for layer in self._layers]
            for layer, unit, before in zip(self._layers, self._sharing.units, self._before, strict=True):
                _set_processor(layer, SharedAttention(unit, self._run, before))

    def disable(self) -> None:
        """Put the former processors back."""
        for layer, processor in zip(self._layers, self._before, strict=False):
            _set_processor(layer, processor)
        self._before = []

    def is_current(self) -> bool:
        """Whether it may be put in again: products with the layers' weights are kept from run to run."""
        return not self._before and self._sums == self._checksums()

    def _checksums(self) -> list[int]:
        return checksums(parameter for layer in self._layers for parameter in layer.parameters())

    @torch.no_grad()
    def prepare(self, injection: Injection) -> None:
        """Compute the signals of an injection's condition picture, once for all its calls, and take its precision."""
        own = next(self._sharing.parameters())
        self._run.across_frames = faster_precision(own.device, own.dtype, exact=injection.exact)
        wanted = injection.conditions and not injection.is_plain
        self._run.signals = self._sharing.signals(injection.conditions[0]) if wanted else {}


def _set_processor(layer: Any, processor: Any) -> None:
    # An IP-Adapter's processor is a module and lives among the layer's modules; a plain attribute must not shadow it.
    layer._modules.pop("processor", None)
    layer.processor = processor


@torch.no_grad()
def attention_patch(unet: nn.Module, injection: Injection, device: torch.device | None = None) -> ProcessorExchange:
    """Prepare attention sharing for a UNet; nothing is changed until the exchange is enabled.

    device: where the UNet computes, where its weights are if None.

    Raises:
        WeightsError: the file is made for another UNet. HostError: an attention layer has a processor that cannot be
        combined with it. InputError: the condition picture is unusable.
    """
    sharing = injection.weights
    if not isinstance(sharing, AttentionSharing):
        raise ModelError("These layer weights are no attention sharing.")
    layers = [unet.get_submodule(name) for name in attention_units(unet.config)]  # type: ignore[arg-type]
    _check_widths(layers, sharing)
    _check_processors(layers)
    parameter = next(parameter for parameter in unet.parameters() if parameter.is_floating_point())
    sharing = _moved(sharing, device or parameter.device, parameter.dtype)
    return ProcessorExchange(layers, sharing, injection.strength)


def _moved(sharing: AttentionSharing, device: torch.device, dtype: torch.dtype) -> AttentionSharing:
    """The units where the UNet computes; a copy where that is elsewhere, for the original serves other runs."""
    own = next(sharing.parameters())
    if own.device == device and own.dtype == dtype:
        return sharing
    return copy.deepcopy(sharing).to(device, dtype)


def _check_widths(layers: Sequence[nn.Module], sharing: AttentionSharing) -> None:
    theirs = [(unit.to_q_lora[0].down.in_features, unit.to_k_lora[0].down.in_features) for unit in sharing.units]
    ours = [(layer.to_q.in_features, layer.to_k.in_features) for layer in layers]
    wrong = [f"hookers.layers.{i}" for i, pair in enumerate(theirs) if i >= len(ours) or pair != ours[i]]
    if wrong or len(ours) != len(theirs):
        raise WeightsError(
            f"The layer file does not fit the loaded model ({len(theirs)} units for {len(ours)} attention layers, "
            f"{len(wrong)} without a place{': ' if wrong else ''}{', '.join(wrong[:3])}): "
            "choose a checkpoint of the family that the method is made for."
        )


def _check_processors(layers: Sequence[nn.Module]) -> None:
    kinds = {type(layer.processor).__name__ for layer in layers} - _PLAIN - _IMAGE_PROMPTS
    if kinds:
        raise HostError(
            f"Attention sharing cannot be combined with {' or '.join(sorted(kinds))}: switch that feature off "
            "(unet.set_default_attn_processor() does it), or use an SDXL method."
        )
