"""The published networks as plain torch modules."""

from lib_layerdiffusion.networks.attention_sharing import AttentionSharing, SharingRun
from lib_layerdiffusion.networks.transparent_decoder import TransparentDecoder
from lib_layerdiffusion.networks.transparent_encoder import TransparentEncoder

__all__ = ["AttentionSharing", "SharingRun", "TransparentDecoder", "TransparentEncoder"]
