"""What a method changes in a UNet, said without a host: weight offsets, attention sharing, conditions.

Hosts carry it out, each in its own way; the parameter names of ldm and diffusers are translated here too.
"""

from lib_layerdiffusion.unet.injection import (
    Injection,
    LayerWeights,
    WeightOffsets,
    WeightPatch,
    plan_injection,
    read_layer_weights,
)
from lib_layerdiffusion.unet.ldm_keys import attention_units, diffusers_to_ldm, ldm_to_diffusers

__all__ = [
    "Injection",
    "LayerWeights",
    "WeightOffsets",
    "WeightPatch",
    "attention_units",
    "diffusers_to_ldm",
    "ldm_to_diffusers",
    "plan_injection",
    "read_layer_weights",
]
