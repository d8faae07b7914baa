"""Random settings, for round trips."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.settings.parsing import LatentScale, LayerSettings, ResizeMode

# What PNG text and JSON can hold; surrogates can stand in neither.
PROMPTS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from(',:"\\\n(){}[]<> '), max_size=30)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    values = draw(st.binary(min_size=height * width * 4, max_size=height * width * 4))
    return np.frombuffer(values, np.uint8).reshape(height, width, 4)


def settings(with_pictures: bool = True) -> st.SearchStrategy[LayerSettings]:
    layers = st.sampled_from(list(Layer))
    return st.builds(
        LayerSettings,
        enabled=st.just(True),
        method=st.sampled_from(list(METHODS.values())),
        weight=st.floats(0, 2),
        stop_at=st.floats(0, 1),
        pictures=st.dictionaries(layers, pictures()) if with_pictures else st.just({}),
        resize_mode=st.sampled_from(ResizeMode),
        output_origin=st.booleans(),
        prompts=st.dictionaries(layers, PROMPTS),
        decode_passes=st.sampled_from([8, 4, 2, 1]),
        latent_scale=st.sampled_from(LatentScale),
        preview=st.booleans(),
        prompt_aid=st.booleans(),
        edge_cleanup=st.floats(0, 1),
        alpha_low=st.floats(0, 0.45),
        alpha_high=st.floats(0.55, 1),
    )
