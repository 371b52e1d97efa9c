"""The encoder's task with small random weights and tokens, which need no download."""

import json
import pathlib
from functools import partial
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import compress
from experiments.tasks import minilm
from experiments.tasks.minilm import pretrained
from tests.experiments.minilm_reference import embedding

_SIZES = {
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "layer_norm_eps": 1e-12,
}
LENGTH = 10


def tokens() -> np.ndarray:
    """24 sentences of 2 to 10 tokens."""
    draw = np.random.default_rng(1)
    ids = draw.integers(1, 40, (24, LENGTH)).astype(np.int32)
    for row, end in zip(ids, draw.integers(2, LENGTH + 1, len(ids))):
        row[end:] = 0
    return ids


def write_encoder(folder: pathlib.Path) -> None:
    """Weights and a tokenizer that knows a few words, for `data.weights`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "to", "be", "or", "not", "is", "the"]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / pretrained.TOKENIZER))
    write_weights(folder)


def write_weights(folder: pathlib.Path) -> None:
    """Files like the published ones."""
    draw = np.random.default_rng(0)
    width, hidden = _SIZES["hidden_size"], _SIZES["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (40, width),
        "embeddings.position_embeddings.weight": (16, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **_norm("embeddings.LayerNorm", width),
    }
    for index in range(_SIZES["num_hidden_layers"]):
        at = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= _dense(f"{at}.attention.self.{part}", width, width)
        shapes |= _dense(f"{at}.attention.output.dense", width, width)
        shapes |= _norm(f"{at}.attention.output.LayerNorm", width)
        shapes |= _dense(f"{at}.intermediate.dense", width, hidden)
        shapes |= _dense(f"{at}.output.dense", hidden, width)
        shapes |= _norm(f"{at}.output.LayerNorm", width)
    arrays = {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    for name in arrays:
        if name.endswith("bias"):  # large ones would make all sentences alike
            arrays[name] *= np.float32(0.1)
    save_file(arrays, folder / pretrained.WEIGHTS)
    (folder / "config.json").write_text(json.dumps(_SIZES))


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def references(folder: pathlib.Path, ids: Any) -> np.ndarray:
    """The embeddings of tokens, from the equations."""
    arrays = load_file(folder / pretrained.WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    return np.stack([embedding(arrays, config, row[row != 0]) for row in ids])


def task(folder: str) -> compress.Task:
    """The task on the weights that `write_weights` put into a folder."""
    path, ids = pathlib.Path(folder), tokens()
    data = {"x": ids, "y": references(path, ids).astype(np.float32)}
    return compress.Task(
        build=partial(minilm.build, path),
        train={name: x[:16] for name, x in data.items()},
        test={name: x[8:] for name, x in data.items()},
        loss=minilm.loss,
        metric=compress.Metric(minilm.cosine, "cosine", unit="", scale=1.0),
        classifies=False,
    )
