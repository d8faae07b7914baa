"""Options and fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# As in pyproject.toml, which pytest does not read where `--forge-root DIR` makes it take Forge's folder for its root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("MPLBACKEND", "agg")

# A test that is slow on a busy machine has not failed: speed is measured in benchmarks.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--forge-root",
        type=Path,
        default=None,
        help="a folder of Forge, Forge Neo, reForge or Forge classic to run the contract tests in",
    )
    parser.addoption(
        "--alpha-matrix",
        type=Path,
        default=None,
        help="file to append a line to for each row of the table in docs/alpha.md that was run in a real host",
    )
    parser.addoption(
        "--fake-host",
        choices=("forge", "neo", "reforge", "classic"),
        default="forge",
        help="the host that the contract tests play where no --forge-root is given",
    )


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return Path(__file__).parent / "data"
