"""Two icons of each kind, and a family of random weights on them."""

import json

import numpy as np
import pytest
import torch

from tests.training.random_families import METHODS, SUBJECTS, save


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two icons of each kind at 128 px."""
    folder = tmp_path_factory.mktemp("data")
    rgba = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 4), dtype=np.uint8)
    np.save(folder / "rgba.npy", rgba)
    rows = [(name, "3d", held) for held in (False, True) for name in SUBJECTS]
    entries = [{"name": f"{name}{'-held' * held}", "style": style, "held_out": held} for name, style, held in rows]
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """A family of random weights, exported."""
    from lib_layerdiffusion.training.family import Workshop

    shop = Workshop(data, tmp_path_factory.mktemp("runs"), SUBJECTS, each=2)
    torch.manual_seed(0)
    for name in ("vae", "base", "transparency", *METHODS):
        save(shop, name, spread=0.01)
    target = tmp_path_factory.mktemp("family")
    shop.export(target)
    return target
