"""Layer files and an engine on them that the tests of a module share."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from tests.tiny_family import new_engine, write_layers


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    return write_layers(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def engine(layers):
    return new_engine(layers)
