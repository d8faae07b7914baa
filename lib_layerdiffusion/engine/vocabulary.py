"""What a model knows: a small one was trained on few words, and says which of a prompt are none of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from lib_layerdiffusion.errors import quoted

_WORD = re.compile(r"[^\W\d_]+")
SMALL_WORDS = frozenset({"a", "an", "the", "of", "in", "on", "and", "with", "at", "to"})
"""Words that no model needs to have been taught to be asked politely."""


def words_in(texts: Iterable[str]) -> frozenset[str]:
    """Every word of some texts, in small letters."""
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))


def unknown_words(texts: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Words of prompts that are not in `known`, each once and in their order; none where a model knows everything.

    known: words in small letters; empty for a model that knows everything.
    """
    if not known:
        return ()
    said = dict.fromkeys(word.lower() for text in texts for word in _WORD.findall(text))
    return tuple(word for word in said if word not in known and word not in SMALL_WORDS)


def unknown_note(words: Collection[str]) -> str:
    """One sentence about unknown words, "" where there are none."""
    if not words:
        return ""
    listed = ", ".join(map(quoted, words))
    return f"This model does not know {listed}: it draws what the other words say."
