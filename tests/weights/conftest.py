"""A hub of our own for every test of downloads, and none of the user's caches or switches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import Hub, serve
from huggingface_hub import constants
from safetensors.torch import save

from lib_layerdiffusion.weights import transfer

NAME = "layer_xl_transparent_attn"


@pytest.fixture
def content() -> bytes:
    """A safetensors file of about 100 kB."""
    generator = torch.Generator().manual_seed(0)
    key = "diffusion_model.input_blocks.1.1.weight::diff::0"
    return save({key: torch.randn(25_000, generator=generator)})


@pytest.fixture
def hub(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # Small chunks, so that a small file can break in the middle of many.
    monkeypatch.setattr(transfer, "_CHUNK", 4096)
    with serve({f"{NAME}.safetensors": content}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
