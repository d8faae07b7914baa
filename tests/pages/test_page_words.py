"""Sentences of the server in the page's languages: each that a user of the page can meet has a translation."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_layerdiffusion.server.app import WEB
from tests.pages.page_server import advanced, opened

ROOT = Path(__file__).parents[2] / "lib_layerdiffusion"
LANGUAGES = ("zh_CN", "ja_JP")
SPOKEN = (
    "server/asking.py", "server/jobs.py", "server/model.py", "server/uploads.py", "server/guard.py",
    "engine/request.py", "engine/chains.py", "engine/vocabulary.py", "settings/kinds.py", "settings/infotext.py",
    "images/decoding.py", "images/opacity.py", "networks/numbers.py",
)  # fmt: skip
"""Modules whose sentences a user of the page can meet."""
FOR_PROGRAMS = (
    "This server is not called so", "A header comes twice", "This small model makes pictures", "There is no layer",
    "A prompt must be text", "Method must be the name", " (with or without", "must be an object with names",
    "is unclear: write width x height", "has values", "has infinite", "values up to",
)  # fmt: skip
"""What only programs that ask the server themselves can meet, or what is a part of another sentence."""


def said(language: str) -> dict[str, str]:
    return json.loads((WEB / "words" / f"said.{language}.json").read_text(encoding="utf-8"))


def pattern(text: str) -> re.Pattern[str]:
    """As the page recognises a sentence."""
    parts = re.split(r"\{\w+\}", text)
    return re.compile("(.+?)".join(map(re.escape, parts)), re.DOTALL)


def sentences(path: Path) -> Iterator[str]:
    """Texts in a module that end as sentences do, with "7" where a value is written in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    skipped |= {id(part) for node in joined for part in node.values}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if text.count(" ") > 2 and text.endswith("."):
            yield text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_that_can_be_met_has_a_translation(language):
    patterns = [pattern(text) for text in said(language)]
    found = {text for name in SPOKEN for text in sentences(ROOT / name)}
    assert len(found) > 40
    missing = [text for text in found if not any(one.fullmatch(text) for one in patterns)]
    assert sorted(text for text in missing if not any(piece in text for piece in FOR_PROGRAMS)) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_what_is_written_in(language):
    for text, own in said(language).items():
        names = re.findall(r"\{(\w+)\}", text)
        assert len(names) == len(set(names)), text
        assert set(re.findall(r"\{(\w+)\}", own)) <= set(names), text
    assert said("zh_CN").keys() == said("ja_JP").keys()


MISTAKES = [
    ("generate", {"prompt": "x", "steps": 1.5}),
    ("generate", {"prompt": "x", "guidance": -1}),
    ("generate", {"prompt": "x", "width": 60, "height": 64}),
    ("generate", {"prompt": "x", "width": 68, "height": 64}),
    ("generate", {"prompt": "x", "width": 64}),
    ("generate", {"prompt": "x", "batch": 17}),
    ("generate", {"prompt": "x", "sampler": "Nonsense"}),
    ("generate", {"prompt": "x", "decode_passes": 3}),
    ("generate", {"prompt": "x", "resize_mode": "Nonsense"}),
    ("generate", {"prompt": "x", "background": f"upload-{'0' * 32}"}),
    ("generate", {"prompt": "x", "method": "bg-to-blend"}),
    ("chain", {"prompt": "x", "scene": "y"}),
    ("compose", {"foreground": "AAAA", "background": "AAAA"}),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_what_the_server_refuses_in_its_language(browser, address, language):
    with opened(browser, address, expected=("Failed to load resource",)) as page:
        with page.expect_navigation():
            page.select_option("#language", language)
        page.wait_for_selector("#create:not([aria-busy])")
        pairs = page.evaluate(
            """async (mistakes) => {
                const { t } = await import("/js/words.js");
                const pairs = [];
                for (const [route, body] of mistakes) {
                    const headers = { "Content-Type": "application/json" };
                    const options = { method: "POST", headers, body: JSON.stringify(body) };
                    const { detail } = await (await fetch(`/layerdiffusion/v1/${route}`, options)).json();
                    pairs.push([detail, t(detail)]);
                }
                return pairs;
            }""",
            MISTAKES,
        )
        for english, own in pairs:
            assert own != english
            assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", own), english
        advanced(page)
        page.fill("#sampler", "Nonsense")
        page.click("#generate")
        page.wait_for_selector(".notice.error")
        words = set(re.findall(r"[A-Za-z]{3,}", page.inner_text(".notice.error").partition("Nonsense")[0]))
        assert words == set()
