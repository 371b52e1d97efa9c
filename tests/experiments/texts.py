"""A data folder with texts that no one has to download."""

import pathlib

import numpy as np

_WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "\n"]


def write_texts(folder: pathlib.Path) -> None:
    """Texts for both language models, made of a few words."""
    text = " ".join(np.random.default_rng(0).choice(_WORDS, 8000))
    (folder / "wikitext2").mkdir(parents=True)
    for name in ("tinyshakespeare.txt", "wikitext2/valid.txt", "wikitext2/test.txt"):
        (folder / name).write_text(text)
