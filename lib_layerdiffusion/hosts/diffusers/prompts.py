"""Prompts of any length: 75 tokens a chunk, chunks joined along the token axis, as A1111 and Forge do it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib_layerdiffusion.engine.host import PromptEmbedding


def encode_prompts(pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
    """Encode prompts to contexts of one common length; shorter prompts are filled up with empty chunks.

    pipeline: a Stable Diffusion 1.5 or XL pipeline. prompts: any lengths, also empty.
    """
    pairs = [
        (getattr(pipeline, f"tokenizer{end}", None), getattr(pipeline, f"text_encoder{end}", None))
        for end in ("", "_2")
    ]
    pairs = [pair for pair in pairs if None not in pair]
    chunked = [[_chunks(tokenizer, prompt) for prompt in prompts] for tokenizer, _ in pairs]
    count = max(len(chunks) for encoder in chunked for chunks in encoder)
    empties = [_chunks(tokenizer, "")[0] for tokenizer, _ in pairs]
    wide = hasattr(pipeline, "text_encoder_2")
    device = pipeline._execution_device
    results = []
    for index in range(len(prompts)):
        parts, pooled = [], None
        for (_, encoder), prepared, empty in zip(pairs, chunked, empties, strict=True):
            ids = torch.tensor(prepared[index] + [empty] * (count - len(prepared[index])), device=device)
            states, pooled = _encode(encoder, ids, penultimate=wide)
            parts.append(states.reshape(1, -1, states.shape[-1]))
        results.append(PromptEmbedding(torch.cat(parts, dim=-1), pooled if wide else None))
    return results


def _chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """Token ids in chunks of the model's length, each with start, end and filling."""
    length = min(int(tokenizer.model_max_length), 77)
    framed = tokenizer(text, truncation=False, padding=False, verbose=False).input_ids
    if len(framed) <= length:
        return [tokenizer(text, truncation=True, padding="max_length", max_length=length).input_ids]
    bare = tokenizer(text, truncation=False, padding=False, add_special_tokens=False, verbose=False).input_ids
    start = framed.index(bare[0])
    head, tail = framed[:start], framed[start + len(bare) :]
    room = length - len(head) - len(tail)
    fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tail[-1]
    pieces = [head + bare[at : at + room] + tail for at in range(0, len(bare), room)]
    return [piece + [fill] * (length - len(piece)) for piece in pieces]


def _encode(encoder: Any, ids: Tensor, *, penultimate: bool) -> tuple[Tensor, Tensor | None]:
    """States [chunks, T, C] and the pooled state [1, P] of the first chunk."""
    output = encoder(ids, output_hidden_states=True)
    pooled = output[0][:1] if output[0].ndim == 2 else None
    # SDXL was trained on the states before the last layer, without the final norm (its paper, section 2.1).
    return (output.hidden_states[-2] if penultimate else output.last_hidden_state), pooled
