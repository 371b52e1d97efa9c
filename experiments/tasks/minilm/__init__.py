"""Sentence embeddings of all-MiniLM-L6-v2 (22.7 million parameters), to be compressed.

There are no labels: what is compressed is compared with the embeddings of the whole
network in float32, computed once and kept in the cache folder. Training towards them
is embedding distillation. Sentences are WikiText-2's, `valid` to calibrate and train
on, `test` to be judged on.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import compress
from experiments.data import cache_folder
from experiments.tasks.minilm import pretrained
from experiments.tasks.minilm.encoder import Encoder
from experiments.tasks.minilm.sentences import wikitext_sentences

_BATCH = 64
_CURVES = 64  # sentences that are looked at during training


def build(folder: pathlib.Path, key: Any, layers: str = "all") -> compress.Model:
    """The encoder with its published weights.

    Args:
      folder: Of the weights.
      key: Not used: nothing is random.
      layers: Those that stay, in order, `0-2-5`; the others are dropped.
    """
    sizes = pretrained.read_sizes(folder)
    chosen = _layers(layers, sizes.layers)
    sizes = sizes._replace(layers=len(chosen))
    model = compress.from_nnx(Encoder(sizes, rngs=nnx.Rngs(0)))
    return model._replace(params=pretrained.read_params(folder, chosen))


def _layers(text: str, count: int) -> list[int]:
    if text == "all":
        return list(range(count))
    parts = text.split("-")
    chosen = [int(part) for part in parts if part.isdecimal()]
    if len(chosen) < len(parts) or chosen != sorted({*chosen} & {*range(count)}):
        raise ValueError(
            f"minilm: model.layers={text!r} must name layers from 0 to {count - 1} in "
            "order, such as 0-2-5, or be all."
        )
    return chosen


def loss(embeddings: jax.Array, batch: Any) -> jax.Array:
    """1 - cosine to the float embedding, mean over the batch."""
    return 1.0 - cosine(embeddings, batch).mean()


def cosine(embeddings: jax.Array, batch: Any) -> jax.Array:
    """Of each embedding with the float one; both have length 1."""
    return jnp.sum(embeddings * batch["y"], axis=-1)


def embed(model: compress.Model, ids: np.ndarray) -> np.ndarray:
    """The embeddings of tokens `[sentences, length]`."""
    predict = jax.jit(model.predictor())
    rows = [predict(model.params, part) for part in _batches(ids)]
    return np.concatenate([np.asarray(row) for row in rows])[: len(ids)]


def _batches(ids: np.ndarray) -> list[np.ndarray]:
    """All of one size, so that one program serves them; the last one is filled up."""
    padded = np.resize(ids, (-(-len(ids) // _BATCH) * _BATCH, ids.shape[1]))
    return np.split(padded, len(padded) // _BATCH)


def examples(
    folder: pathlib.Path, sentences: Sequence[str], length: int
) -> dict[str, np.ndarray]:
    """Tokens `x`, and `y`: the embeddings of the whole network in float32."""
    ids = pretrained.tokenize(folder, sentences, length)
    return {"x": ids, "y": _reference(folder, ids)}


def _reference(folder: pathlib.Path, ids: np.ndarray) -> np.ndarray:
    """The float embeddings, from the cache if they are there."""
    with (folder / pretrained.WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{ids.shape} {ids.dtype}".encode() + ids.tobytes())
    kept = cache_folder() / f"minilm-{digest.hexdigest()[:16]}.npy"
    if not kept.exists():
        found = embed(build(folder, None), ids)
        unfinished = kept.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, found)
        unfinished.replace(kept)
    return np.load(kept)


def task_of(
    folder: pathlib.Path,
    train: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
    length: int = 64,
) -> compress.Task:
    """The task on any sentences and any weights of this architecture."""
    return compress.Task(
        build=partial(build, folder),
        train=examples(folder, train, length),
        validation=examples(folder, validation, length),
        test=examples(folder, test, length),
        loss=loss,
        metric=compress.Metric(cosine, "cosine", unit="", scale=1.0),
        classifies=False,
    )


def task(
    train: int = 1500, test: int = 1000, length: int = 64, weights: str = "package"
) -> compress.Task:
    """The task for a config: `task: experiments.tasks.minilm:task`.

    Args:
      train: Sentences of WikiText-2's `valid`, drawn with a fixed seed; 64 more of
        them are for the curves.
      test: Sentences of WikiText-2's `test`, likewise.
      length: Tokens of a sentence; longer ones are cut.
      weights: Folder with another encoder of this architecture: `model.safetensors`,
        `config.json` and `tokenizer.json`. By default the published one.

    Raises:
      ImportError: If the package with the weights is not installed.
      FileNotFoundError: If WikiText-2, or a file of the folder, is not there.
    """
    folder = pretrained.folder_of(weights)
    known, unknown = _drawn("valid", train + _CURVES), _drawn("test", test)
    return task_of(folder, known[_CURVES:], known[:_CURVES], unknown, length)


def _drawn(part: str, count: int) -> list[str]:
    sentences = wikitext_sentences(part)
    if not 1 <= count <= len(sentences):
        raise ValueError(
            f"minilm: {count} sentences of WikiText-2's {part}: give 1 to "
            f"{len(sentences)}."
        )
    order = np.random.default_rng(0).permutation(len(sentences))[:count]
    return [sentences[i] for i in order]
