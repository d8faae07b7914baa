"""The family's words: subjects, prompt templates, and a CLIP-style tokenizer whose every known word is one token."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lib_layerdiffusion.training.matter import LOCKS, MATTER_NAMES, TINTS
from lib_layerdiffusion.training.synthesis import BACKGROUNDS, uniform
from lib_layerdiffusion.training.variety import FLAT_WORDS, HUES

TEMPLATES = ("{}", "a {}", "{} icon", "a picture of a {}")
GROUND = "{} background"
"""How a scene is asked for."""
OFFSET_MARK = " *"
"""Behind a prompt: the latent is to carry E's offset (stage `offset`)."""
MAX_TOKENS = 24
EMPTY_TEXT_SHARE = 0.1
"""How often a picture comes without its prompt, for classifier-free guidance."""
_END = "</w>"


@lru_cache
def demo_words() -> tuple[str, ...]:
    """Every name that the bundled family's tokenizer has words for, as slugs, the trained subjects first."""
    text = resources.files("lib_layerdiffusion.training").joinpath("demo_subjects.txt").read_text()
    return tuple(word for word in text.split() if word != "---")


@lru_cache
def demo_subjects() -> tuple[str, ...]:
    """The subjects that the bundled family is trained on: those above the line in `demo_subjects.txt`."""
    text = resources.files("lib_layerdiffusion.training").joinpath("demo_subjects.txt").read_text()
    return tuple(text.split("---", maxsplit=1)[0].split())


def vocabulary(subjects: Sequence[str]) -> tuple[str, ...]:
    """What a family's tokenizer gets words for, as slugs: its subjects, those of the list, matter, colours, styles."""
    others = (*MATTER_NAMES, *HUES, *TINTS, *LOCKS, *(words.format("") for words in FLAT_WORDS))
    return tuple(dict.fromkeys((*subjects, *demo_words(), *others)))


class Prompts:
    """The training prompts of a stage, numbered, so that a device can draw them; number 0 is the empty one.

    What a picture is asked for by takes as many numbers in a row as there are templates.
    """

    def __init__(self) -> None:
        self.texts = [""]
        self._first: dict[tuple[str, str | None, bool], int] = {}

    def add(self, subject: str, scene: str | None = None, *, offset: bool = False) -> int:
        """The first number of a picture's prompts; subject: its words, "" for a background alone.

        offset: whether they ask for E's offset in the latent.
        """
        key = (subject, scene, offset)
        if key not in self._first:
            self._first[key] = len(self.texts)
            named = [template.format(subject.replace("-", " ")) if subject else "" for template in TEMPLATES]
            ground, mark = GROUND.format(scene) if scene else "", OFFSET_MARK if offset else ""
            self.texts += [", ".join(part for part in (words, ground) if part) + mark for words in named]
        return self._first[key]

    def draw(self, first: Tensor, generator: Generator) -> Tensor:
        """A prompt's number for each of the pictures with these first numbers, [N]; 0 for a tenth of them."""
        device = generator.device
        template = torch.randint(len(TEMPLATES), first.shape, generator=generator, device=device)
        return (first + template).masked_fill(uniform(generator, *first.shape) < EMPTY_TEXT_SHARE, 0)


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's tokenizer works on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(others))]


@lru_cache(maxsize=4)
def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until every word is a single token."""
    spelled = {word: [*word[:-1], word[-1] + _END] for word in sorted(set(words)) if word}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for parts in spelled.values() for pair in pairwise(parts))
        if not pairs:
            return merges
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        for word, parts in spelled.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            spelled[word] = joined


def write_tokenizer(folder: Path, subjects: tuple[str, ...]) -> Any:
    """Write a CLIP tokenizer (vocab.json, merges.txt, configs) that knows the subjects' words; return it."""
    from transformers import CLIPTokenizer

    phrases = [
        *(s.replace("-", " ") for s in subjects),
        *(t.format("") for t in TEMPLATES),
        *BACKGROUNDS,
        GROUND.format(""),
    ]
    merges = learn_merges(tuple(word for phrase in phrases for word in phrase.split()))
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(char + _END for char in alphabet), *dict.fromkeys(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
        pad_token="<|endoftext|>",  # noqa: S106 - a word, not a secret
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_text_encoder(tokenizer: Any) -> nn.Module:
    """A fresh two-layer CLIP text model for a tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
