"""A data folder with texts that no one has to download."""

import pathlib

import numpy as np

_WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]


def write_texts(folder: pathlib.Path) -> None:
    """Texts for both language models and the encoder, made of a few words."""
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(_WORDS, 10)).capitalize() for _ in range(800)]
    text = "".join(f" {sentence} .\n" for sentence in sentences)
    (folder / "wikitext2").mkdir(parents=True)
    for name in ("tinyshakespeare.txt", "wikitext2/valid.txt", "wikitext2/test.txt"):
        (folder / name).write_text(text)
