"""README says what the code says."""

from __future__ import annotations

from pathlib import Path

from lib_layerdiffusion.methods import METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_the_tables():
    rows = [
        f"| {method.label} | {', '.join(map(str, method.inputs)) or '-'} | {method.outcome} |"
        for method in METHODS.values()
    ]
    assert "\n".join(rows) in README


def test_the_test_command_is_the_one_that_ci_runs():
    extras = README.split("Run the tests")[1].split('-e "')[1].split('"')[0]
    assert f'"{extras.removesuffix("]")},dev]"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
