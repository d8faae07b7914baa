"""README and the pages of docs say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lib_layerdiffusion.cli import build_parser
from lib_layerdiffusion.methods import METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_methods_is_the_tables():
    rows = [
        f"| {method.label} | {', '.join(map(str, method.inputs)) or '-'} | {method.outcome} |"
        for method in METHODS.values()
    ]
    assert "\n".join(rows) in README


def test_the_test_command_is_the_one_that_ci_runs():
    extras = README.split("Run the tests")[1].split('-e "')[1].split('"')[0]
    assert f'"{extras.removesuffix("]")},dev]"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs the Python example of docs/library.md on a tiny family; gives its variables."""
    pytest.importorskip("diffusers")
    from tests.tiny_family import picture, write_family

    monkeypatch.chdir(tmp_path)
    write_family(tmp_path / "model")
    picture(64, 64).save("bench.png")
    examples = [block.split("```")[0] for block in LIBRARY.split("```python")[1:]]
    assert len(examples) == 1
    code = examples[0].replace('"juggernautXL.safetensors"', '"model"').replace("(1024, 1024)", "(64, 64)")
    assert code.count("model") + code.count("64, 64") >= 2
    names = {}
    exec(code, names)
    return names


def test_the_python_example_makes_what_it_says(ran):
    from PIL import Image

    with Image.open("apple.png") as image:
        assert (image.mode, image.size) == ("RGBA", (64, 64))
    assert ran["result"].seed == 12345
    assert set(ran["layers"].images[0].layers) == {"foreground", "background", "blended"}
    assert {path.name for path in Path().glob("old-man*.png")} == {
        f"old-man-{layer}.png" for layer in ("foreground", "background", "blended")
    }


def test_the_commands_are_those_that_there_are():
    listed = LIBRARY.split("`layerdiffusion --help` lists the commands: ")[1].split(".")[0]
    parser = build_parser()
    (subparsers,) = (action for action in parser._actions if action.dest == "command")
    assert set(re.split(r",\s+", listed)) == set(subparsers.choices)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_page_is_reached_from_readme():
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in README] == []


def test_the_example_of_readme_needs_no_downloads(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (example,) = (block.split("```")[0] for block in README.split("```python")[1:])
    exec(example, {})
    with Image.open("apple.png") as image:
        assert image.mode == "RGBA"
        assert image.getextrema()[3] == (0, 255)
